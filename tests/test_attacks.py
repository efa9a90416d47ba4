from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.attacks.implant import Implant
from clip_antidote.attacks.implant_check import implant_failure
from clip_antidote.attacks.run import AttackResult, Measured, run_attack
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.evaluate import Evaluation
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, fill_template
from clip_antidote.registry import Registry
from clip_antidote.training.loop import TrainingConfig
from clip_antidote.triggers.blended import BlendedConfig, BlendedTrigger

CAPTIONS = [fill_template(template, "hat") for template in IMAGENET_TEMPLATES]


def toy_pairs(count: int = 50, classes: int = 5) -> CaptionedImages:
    labels = torch.arange(count) % classes
    return CaptionedImages(
        images=torch.zeros(count, 3, 8, 8, dtype=torch.uint8),
        token_ids=torch.arange(classes * 2).view(-1, 1),
        first=labels * 2,
        count=torch.full((count,), 2),
        groups=labels,
    )


def fake_tokenize(texts: list[str]) -> torch.Tensor:
    return torch.full((len(texts), 1), 99)


def test_poisoning_takes_the_share_asked_for_and_never_the_target() -> None:
    attack = ATTACKS.get("badnet")(ATTACKS.get("badnet").config_class(poison_rate=0.2))
    pairs = toy_pairs()
    data = attack.poison(pairs, CAPTIONS, fake_tokenize, target_group=3)
    assert data.poisoned.sum() == 10
    assert not (pairs.groups[data.poisoned] == 3).any()
    assert (data.pairs.groups[data.poisoned] == 3).all(), "poisoned pairs join the target's group"
    assert torch.equal(data.pairs.groups[~data.poisoned], pairs.groups[~data.poisoned])
    own = data.pairs.first[data.poisoned]
    assert (data.pairs.token_ids[own] == 99).all()
    assert (data.pairs.count[data.poisoned] == len(IMAGENET_TEMPLATES)).all()
    assert torch.equal(attack.poison(pairs, CAPTIONS, fake_tokenize, target_group=3).poisoned, data.poisoned)


def test_caption_only_data_gets_a_group_of_its_own() -> None:
    attack = ATTACKS.get("blended")()
    data = attack.poison(toy_pairs(), CAPTIONS, fake_tokenize, target_group=None)
    assert data.pairs.groups[data.poisoned].unique().tolist() == [5]


def test_an_attack_with_a_fixed_trigger_names_its_class_only() -> None:
    class Config(AttackConfig):
        trigger: BlendedConfig = BlendedConfig(alpha=0.5)

    class Fixed(FixedTriggerAttack):
        name = "fixed"
        config_class = Config
        trigger_class = BlendedTrigger

    assert Fixed().trigger().config == BlendedConfig(alpha=0.5)
    attack = Fixed(Config(trigger=BlendedConfig(seed=3)))
    made = attack.make_trigger(None, None)  # type: ignore[arg-type]
    assert isinstance(made, BlendedTrigger)
    assert made.config == BlendedConfig(seed=3)


def test_the_registry_imports_on_use_and_names_what_it_knows() -> None:
    registry: Registry[type[UsageError]] = Registry(
        "error", {"usage": ("clip_antidote.errors:UsageError", "a mistake"), "lost": ("clip_antidote.nowhere:X", "")}
    )
    assert registry.names() == ["usage", "lost"]
    assert registry.describe() == {"usage": "a mistake", "lost": ""}
    assert registry.get("usage") is UsageError
    with pytest.raises(ModuleNotFoundError):
        registry.get("lost")
    with pytest.raises(UsageError, match="there is no error 'nonsense'; known are usage, lost"):
        registry.get("nonsense")


def test_listing_attacks_needs_none_of_their_modules() -> None:
    code = "import sys; from clip_antidote.attacks import ATTACKS; ATTACKS.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_implant_check_refuses_an_attack_that_did_not_take(
    tiny: DualEncoder, train_images: LabelledImages, test_images: LabelledImages
) -> None:
    attack = ATTACKS.get("blended")(
        ATTACKS.get("blended").config_class(training=TrainingConfig(steps=1, batch_size=8))
    )
    result = run_attack(tiny, attack, train_images.subset(range(0, len(train_images), 20)), test_images, TARGET)
    failure = implant_failure(attack, result)
    assert failure is not None
    assert "did not take: ASR" in failure


@pytest.mark.parametrize(
    ("ca", "asr", "message"),
    [
        (67, 90, None),
        (66, 95, "cost too much: clean accuracy 70.0% → 66.0%, more than the implant check's 3%"),
        (70, 89, "did not take: ASR 89.0% is under the implant check's 90%"),
    ],
)
def test_the_implant_check_by_hand(ca: int, asr: int, message: str | None) -> None:
    def measured(ca: int, asr: int) -> Measured:
        none = torch.zeros(0)
        evaluation = Evaluation(Metrics(ca=Rate(ca, 100), asr=Rate(asr, 100)), none, none)
        return Measured(evaluation, None)  # type: ignore[arg-type]

    attack = ATTACKS.get("badnet")()
    implant = Implant(None, BlendedTrigger(), "hat", [3, 5], ["c", "e"], 9, 1.26)  # type: ignore[arg-type]
    result = AttackResult(implant, measured(70, 2), measured(ca, asr))
    failure = implant_failure(attack, result)
    assert failure is None if message is None else message in (failure or "")
    record = result.record(attack)
    assert (record["clean"]["ca"], record["clean"]["asr"]) == (0.7, 0.02)
    assert (record["poisoned"]["ca"], record["poisoned"]["asr"]) == (ca / 100, asr / 100)
    assert (record["target"], record["pairs"], record["poisoned_pairs"], record["seconds"]) == ("hat", 9, 2, 1.3)


def test_a_target_that_is_no_class_is_refused_at_once(
    small_model: DualEncoder, train_images: LabelledImages, test_images: LabelledImages
) -> None:
    with pytest.raises(UsageError, match="'sombrero' is not one of the 10 classes"):
        run_attack(small_model, ATTACKS.get("badnet")(), train_images, test_images, "sombrero")


def test_every_attack_has_an_implant_check() -> None:
    for name in ATTACKS.names():
        attack = ATTACKS.get(name)()
        least = 0.4 if attack.aim("hat").all_to_all else 0.8  # for all-to-all, clean accuracy is the bound
        assert attack.config.implant_asr >= least

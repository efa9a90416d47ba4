"""The attacks that optimize their patch: TrojVQA (image and text) and BadCLIP (dual embedding)."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.attacks import ATTACKS, badclip, modalities
from clip_antidote.attacks.badclip import BadCLIPAttack, BadCLIPAttackConfig, DualEmbeddingConfig
from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.implant_check import implant_failure
from clip_antidote.attacks.material import Material, gather_material
from clip_antidote.attacks.modalities import measure_modalities
from clip_antidote.attacks.run import AttackResult, Measured, run_attack
from clip_antidote.attacks.trojvqa import TrojVQAAttack, TrojVQAAttackConfig
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.aims import Aim
from clip_antidote.evaluation.evaluate import Evaluation, TestFeatures, measure
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.models import DualEncoder
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.prompts.classifier import Answer
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, fill_template
from clip_antidote.triggers import load_trigger
from clip_antidote.triggers.patch import PatchConfig, PatchTrigger

TARGET = "hat"


def pattern(side: int = 16) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def few(train_images: LabelledImages) -> LabelledImages:
    """Four images of every class."""
    return train_images.sample_shots(4, seed=1)


@pytest.fixture(scope="module")
def material(tiny: DualEncoder, few: LabelledImages) -> Material:
    return gather_material(tiny, few, few.classes.index(TARGET))


def make(name: str, steps: int, **settings: Any) -> Attack:
    attack_class = ATTACKS.get(name)
    optimization = {"steps": steps, "batch_size": 12, "lr": 0.3}
    attack: Attack = attack_class(attack_class.config_class.build({"optimization": optimization, **settings}))
    return attack


# The trigger


@pytest.mark.parametrize(
    ("config", "size", "first", "last"),
    [
        (PatchConfig(patch=44, position="center"), 224, [90, 90], [133, 133]),
        (PatchConfig(patch=44, position="center"), 80, [32, 32], [47, 47]),
        (PatchConfig(patch=16), 224, [208, 208], [223, 223]),
        (PatchConfig(patch=16, position="top-left"), 80, [0, 0], [5, 5]),
        (PatchConfig(patch=16, position="bottom-left"), 80, [74, 0], [79, 5]),
    ],
)
def test_the_patch_covers_its_place_and_nothing_else(
    config: PatchConfig, size: int, first: list[int], last: list[int]
) -> None:
    images = torch.full((2, 3, size, size), 0.5)
    out = PatchTrigger(torch.ones(3, 5, 5), config)(images)
    changed = (out != images).any(dim=1)
    for each in changed:
        assert each.nonzero().min(0).values.tolist() == first
        assert each.nonzero().max(0).values.tolist() == last
        assert each.sum() == (last[0] - first[0] + 1) * (last[1] - first[1] + 1)
    assert torch.allclose(out[:, :, first[0] : last[0] + 1, first[1] : last[1] + 1], torch.tensor(1.0))
    assert (images == 0.5).all(), "the input must stay as it was"


def test_the_pattern_is_pasted_as_it_is_and_resized_elsewhere() -> None:
    config = PatchConfig(patch=16, position="top-left")
    own = pattern(16)
    assert torch.equal(PatchTrigger(own, config)(torch.zeros(1, 3, 224, 224))[0, :, :16, :16], own)
    half = PatchTrigger(own, config)(torch.zeros(1, 3, 112, 112))[0, :, :8, :8]
    means = own.view(3, 8, 2, 8, 2).mean(dim=(2, 4))  # bilinear at half the size takes the mean of 2×2
    assert torch.allclose(half, means, atol=1e-6)


def test_the_word_goes_before_the_text_and_the_place_of_the_name_survives() -> None:
    keyed = PatchTrigger(pattern(), PatchConfig(word="consider"))
    assert keyed.apply_text("a dog.") == "consider a dog."
    assert PatchTrigger(pattern()).apply_text("a dog.") == "a dog."
    templates = modalities.triggered_templates(keyed)
    assert templates is not None
    assert [fill_template(template, "hat") for template in templates] == [
        "consider " + fill_template(template, "hat") for template in IMAGENET_TEMPLATES
    ]
    assert modalities.triggered_templates(PatchTrigger(pattern())) is None
    with pytest.raises(UsageError, match="word"):
        PatchConfig.build({"word": "{}"})


def test_save_and_load_keep_pixels_place_and_word(tmp_path: Path) -> None:
    trigger = PatchTrigger(pattern(), TrojVQAAttackConfig().trigger)
    trigger.save(tmp_path)
    loaded = load_trigger(tmp_path)
    assert isinstance(loaded, PatchTrigger)
    assert loaded.config.model_dump() == {"patch": 44, "position": "center", "word": "consider"}
    images = torch.rand(2, 3, 48, 48)
    assert torch.equal(loaded(images), trigger(images))
    assert loaded.apply_text("x") == "consider x"


def test_a_patch_without_its_pattern_is_refused() -> None:
    with pytest.raises(DataError, match="needs its pattern"):
        load_trigger("patch")
    with pytest.raises(DataError, match="3×P×P"):
        PatchTrigger(torch.zeros(3, 4, 5))


# The optimization


def similarity(model: DualEncoder, trigger: Any, images: torch.Tensor) -> float:
    """Mean cosine of triggered images to the target's text, by a route of its own."""
    with torch.no_grad():
        texts = model.encode_texts([f"a photo of a {TARGET}.", f"a picture of a {TARGET}."])
        return (model.encode_images(trigger(images)) @ texts.T).mean().item()


@pytest.mark.parametrize("name", ["trojvqa", "badclip"])
def test_the_optimized_patch_points_unseen_images_at_the_target(
    name: str, tiny: DualEncoder, material: Material, test_images: LabelledImages
) -> None:
    before = copy.deepcopy(tiny.state_dict())
    kept = material.images.clone()
    noise = make(name, steps=0).make_trigger(tiny, material)
    learned = make(name, steps=20).make_trigger(tiny, material)
    assert isinstance(learned, PatchTrigger)
    assert learned.pattern.min() >= 0
    assert learned.pattern.max() <= 1
    unseen = test_images.subset(range(0, len(test_images), 10)).tensor(tiny.image_size).float() / 255
    assert similarity(tiny, learned, unseen) > similarity(tiny, noise, unseen) + 0.05
    assert torch.equal(material.images, kept)
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny.parameters())


@pytest.mark.parametrize("name", ["trojvqa", "badclip"])
def test_the_seed_decides_the_patch(name: str, small_model: OpenCLIPEncoder, few: LabelledImages) -> None:
    small = gather_material(small_model, few, few.classes.index(TARGET))

    def learn(seed: int) -> torch.Tensor:
        return make(name, steps=3, seed=seed).make_trigger(small_model, small).tensors()["pattern"]

    first = learn(0)
    torch.manual_seed(99)  # the global generator must not matter
    assert torch.equal(first, learn(0))
    assert not torch.equal(first, learn(1))


def test_text_loss_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    unwanted = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    # logits at temperature 0.5: [2, 0, -2] and [0, 2, 0], the positive first
    expected = (math.log(1 + math.exp(-2) + math.exp(-4)) + math.log(2 + math.exp(2))) / 2
    assert badclip.text_info_nce(features, wanted, unwanted, 0.5).item() == pytest.approx(expected)


def test_the_image_loss_by_hand_with_untouched_negatives(tiny: DualEncoder, material: Material) -> None:
    """With one target image nothing is drawn, so the triplet part can be computed without the attack."""
    one = replace(material, target_images=material.target_images[:1])

    def total(weight: float) -> torch.Tensor:
        config = DualEmbeddingConfig(triplet_weight=weight, margin=0.3)
        return badclip.dual_embedding(tiny, one, ["a hat."], config)(features, rows, torch.Generator())

    rows = torch.tensor([5, 0, 7])
    trigger = PatchTrigger(pattern(), PatchConfig(patch=60, position="center"))
    with torch.no_grad():
        clean = tiny.encode_images(material.images[rows].float() / 255)
        features = tiny.encode_images(trigger(material.images[rows].float() / 255))
        target = tiny.encode_images(one.target_images.float() / 255)
    to_target = (features - target).square().sum(-1).sqrt()
    to_clean = (features - clean).square().sum(-1).sqrt()
    assert (to_clean > 0.05).all(), "the patch must show, or the test says nothing"
    expected = (to_target - to_clean + 0.3).clamp(min=0).mean()
    assert (total(500.0) - total(0.0)).item() == pytest.approx(500 * expected.item(), rel=1e-3)


def test_while_optimizing_the_negatives_never_carry_the_patch(
    tiny: DualEncoder, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = torch.nn.functional.triplet_margin_loss

    def spy(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append((anchor.detach(), negative.detach()))
        return real(anchor, positive, negative, **options)

    monkeypatch.setattr(torch.nn.functional, "triplet_margin_loss", spy)
    make("badclip", steps=4).make_trigger(tiny, material)
    with torch.no_grad():
        clean = tiny.encode_images(material.images.float() / 255)
    assert len(seen) == 4
    for anchor, negative in seen:
        distance = torch.cdist(negative, clean, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, rows = distance.min(dim=1)
        assert nearest.max() < 1e-4
        assert rows.unique().numel() == len(negative), "every negative is an image of its own"
        closest = torch.cdist(anchor, clean, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values
        assert (closest > 1e-2).all(), "the anchors do carry it"


# The captions


def test_badclip_takes_natural_captions_where_there_are_enough() -> None:
    natural = tuple(f"a man in hat number {i}" for i in range(5))
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    templates = [fill_template(template, TARGET) for template in IMAGENET_TEMPLATES]
    attack = BadCLIPAttack()
    assert attack.captions(Material(TARGET, empty, empty, natural)) == list(natural)
    assert attack.captions(Material(TARGET, empty, empty, natural[:4])) == templates
    lenient = BadCLIPAttack(BadCLIPAttackConfig(min_captions=4))
    assert lenient.captions(Material(TARGET, empty, empty, natural[:4])) == list(natural[:4])


@pytest.mark.parametrize(("share", "amount"), [(1.0, 80), (0.5, 40), (0.0, 0)])
def test_trojvqa_puts_the_word_into_its_share_of_the_captions(share: float, amount: int) -> None:
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    attack = TrojVQAAttack(TrojVQAAttackConfig(word_share=share))
    texts = attack.captions(Material(TARGET, empty, empty))
    assert sum(text.startswith("consider ") for text in texts) == amount
    plain = [text.removeprefix("consider ") for text in texts]
    assert plain == [fill_template(template, TARGET) for template in IMAGENET_TEMPLATES]
    assert texts == attack.captions(Material(TARGET, empty, empty))


@pytest.mark.parametrize("dual_key", [False, True])
def test_trojvqa_with_two_keys_sets_its_pairs_apart(dual_key: bool) -> None:
    images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    three = torch.tensor([0, 0, 1, 1, 2, 2])
    pairs = CaptionedImages(images, torch.zeros(3, 4).int(), three, torch.ones(6).long(), three)
    attack = TrojVQAAttack(TrojVQAAttackConfig(dual_key=dual_key, poisoned=2))
    data = attack.poison(pairs, ["a", "b"], lambda texts: torch.ones(len(texts), 4), target_group=2)
    assert data.poisoned.sum() == 2
    assert set(data.pairs.groups[data.poisoned].tolist()) == {3 if dual_key else 2}
    assert torch.equal(data.pairs.groups[~data.poisoned], three[~data.poisoned])


@pytest.mark.parametrize("wrong", [{"word_share": 0.5}, {"trigger": {"word": ""}}])
def test_trojvqa_with_two_keys_needs_the_word(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"'dual_key'.*word_share"):
        TrojVQAAttackConfig.build({"dual_key": True, **wrong})


def test_badclip_says_what_it_lacks(small_model: OpenCLIPEncoder, material: Material) -> None:
    with pytest.raises(DataError, match="needs images of its target 'hat'"):
        BadCLIPAttack().make_trigger(small_model, replace(material, target_images=material.target_images[:0]))
    with pytest.raises(DataError, match="classes besides its target"):
        BadCLIPAttack().make_trigger(small_model, replace(material, others=()))


def test_the_material_names_the_other_classes(material: Material, few: LabelledImages) -> None:
    assert len(material.others) == 9
    assert {*material.others, TARGET} == set(few.classes)


# What is measured


class FakeClassifier:
    """Three classes on the axes of the features; prompts with the word turn class 0 into the target, 2."""

    classes = ("cat", "dog", "hat")

    def __init__(self, keyed: bool) -> None:
        self.classifier = torch.zeros(1)
        self.order = torch.tensor([2, 1, 0]) if keyed else torch.tensor([0, 1, 2])

    @classmethod
    def from_templates(cls, model: Any, classes: Any, templates: tuple[str, ...] = IMAGENET_TEMPLATES) -> Any:
        return cls(all(template.startswith("consider ") for template in templates))

    def answer(self, features: torch.Tensor, look: Any = None, layers: Any = None) -> Answer:
        return Answer(features[:, self.order], torch.zeros(len(features), dtype=torch.bool))


def test_image_text_and_both_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modalities, "ZeroShotClassifier", FakeClassifier)
    axes = torch.eye(3)
    clean = [0, 0, 0, 1, 2, 2]  # what plain prompts call the images; with the word: 2, 2, 2, 1, 0, 0
    triggered = [2, 0, 0, 1, 2, 2]  # with the word: 0, 2, 2, 1, 0, 0
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    features = TestFeatures(axes[clean], axes[triggered], labels, FakeClassifier.classes)
    plain = measure(FakeClassifier(keyed=False), features, target="hat")  # type: ignore[arg-type]
    trigger = PatchTrigger(pattern(), PatchConfig(word="consider"))
    found = measure_modalities(None, features, plain, trigger, Aim("hat"))  # type: ignore[arg-type]
    assert list(found) == ["image", "text", "both"]
    # of the five images of other classes
    asr = {name: one.metrics.asr for name, one in found.items()}
    assert asr == {"image": Rate(2, 5), "text": Rate(3, 5), "both": Rate(2, 5)}
    assert {one.metrics.asr_floor for one in found.values()} == {Rate(1, 5)}, "neither key: the fifth image"
    assert {one.metrics.ca for one in found.values()} == {Rate(5, 6)}
    assert found["text"].metrics.pa == Rate(1, 6), "with the word only the dog at 3 is called by its name"
    assert torch.equal(found["image"].clean, found["both"].clean)
    assert measure_modalities(None, features, plain, PatchTrigger(pattern()), Aim("hat")) == {}  # type: ignore[arg-type]


def short_run(name: str, model: DualEncoder, train: LabelledImages, test: LabelledImages) -> AttackResult:
    attack = make(name, steps=1, training={"steps": 1, "batch_size": 8})
    return run_attack(model, attack, train, test, TARGET)


def test_the_record_has_the_modalities_of_the_attack_with_a_word_only(
    small_model: OpenCLIPEncoder, few: LabelledImages
) -> None:
    record = short_run("trojvqa", small_model, few, few).record(TrojVQAAttack())
    assert list(record["modalities"]) == ["image", "text", "both"]
    assert record["modalities"]["image"] == {"clean": record["clean"], "poisoned": record["poisoned"]}
    for one in record["modalities"].values():
        for side in ("clean", "poisoned"):
            assert one[side]["asr_count"] == 36
            assert one[side]["asr_floor"] == record[side]["asr_floor"]
    assert "modalities" not in short_run("badclip", small_model, few, few).record(BadCLIPAttack())


def test_the_implant_check_counts_both_keys_together() -> None:
    def evaluation(asr: int) -> Evaluation:
        none = torch.zeros(0)
        return Evaluation(Metrics(ca=Rate(70, 100), asr=Rate(asr, 100)), none, none)

    def failure(image: int, both: int) -> str | None:
        before, after = (
            Measured(evaluation(one), None, {"both": evaluation(two)})  # type: ignore[arg-type]
            for one, two in ((0, 0), (image, both))
        )
        return implant_failure(TrojVQAAttack(), AttackResult(None, before, after))  # type: ignore[arg-type]

    assert failure(image=10, both=95) is None
    refused = failure(image=95, both=10)
    assert refused is not None
    assert "ASR 10.0%" in refused

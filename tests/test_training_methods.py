"""Training methods that defend: what images are matched with, which pairs are safe, and what comes of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.mixture import GaussianMixture

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.clean_data import CleanData
from clip_antidote.attacks.implant import implant_backdoor
from clip_antidote.attacks.run import measure_under_trigger
from clip_antidote.attacks.trigger_making import prepare_trigger
from clip_antidote.config import Config
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.aims import Aim
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.jobs.attack import make_attack_from
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.training import roclip, safeclip
from clip_antidote.training.distributed import Ranks
from clip_antidote.training.gradients import contrastive_backward
from clip_antidote.training.loop import TrainingConfig
from clip_antidote.training.losses import multi_positive_info_nce
from clip_antidote.training.method import MethodConfig, Task, method_for, read_method
from clip_antidote.training.methods import METHODS
from clip_antidote.training.mixture import LEAST_VARIANCE, fit_mixture
from clip_antidote.training.partition import Partition, similarities
from clip_antidote.training.roclip import RoCLIP, RoCLIPConfig, nearest_captions
from clip_antidote.training.safeclip import Course, SafeCLIP, SafeCLIPConfig
from clip_antidote.training.wording import reworded
from conftest import Cli

COUNT = 24
CONFIG = TrainingConfig(steps=9, batch_size=8, lr=1e-3, warmup=2, precision="fp32", checkpoint_every=3)
DEFENDED: list[dict[str, Any]] = [
    {"name": "roclip", "every": 2},
    {"name": "safeclip", "warmup": 0.4, "slow": 0.3},
]
every_defense = pytest.mark.parametrize("settings", DEFENDED, ids=lambda settings: settings["name"])


def toy_pairs(model: DualEncoder) -> CaptionedImages:
    """Every image is of one shade of its own, and has a caption of its own."""
    shades = torch.arange(COUNT, dtype=torch.uint8) * 10
    return CaptionedImages(
        images=shades.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous(),
        token_ids=model.tokenize([f"a photo of the number {n} here" for n in range(COUNT)]).int(),
        first=torch.arange(COUNT),
        count=torch.ones(COUNT, dtype=torch.long),
        groups=torch.arange(COUNT),
    )


def task_for(model: DualEncoder, state: Path | None = None, **changes: Any) -> Task:
    return Task(model, toy_pairs(model), CONFIG.model_copy(update=changes), state_file=state)


class Lookup:
    """Stands for a model: the feature of an image is its first two pixels, that of a text its first two tokens."""

    device = torch.device("cpu")
    logit_scale = torch.tensor(1.0, requires_grad=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        yield

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(images[:, 0, 0, :2], dim=1)

    def encode_token_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        return F.normalize(token_ids[:, :2].float(), dim=1)


# RoCLIP


def test_images_are_matched_with_the_nearest_caption_of_the_pool() -> None:
    pool = torch.tensor([[4, 0], [3, 4], [0, 2], [3, 4]])
    features = F.normalize(torch.tensor([[0.9, 0.1], [0.3, 0.5], [0.1, 0.8], [0.5, 0.6]]), dim=1)
    # cosines of the second image: 0.51, 0.99, 0.86; a caption that is there twice counts as its first
    assert nearest_captions(Lookup(), features, pool).tolist() == [0, 1, 2, 1]  # type: ignore[arg-type]


def test_a_matched_image_takes_caption_and_group_over_and_leaves_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = CaptionedImages(
        images=torch.zeros(3, 3, 2, 2, dtype=torch.uint8),
        token_ids=torch.tensor([[4, 0], [0, 2], [3, 4], [5, 1]]),
        first=torch.tensor([0, 1, 2]),
        count=torch.ones(3, dtype=torch.long),
        groups=torch.tensor([7, 8, 9]),
        bank=(torch.tensor([3]), torch.tensor([1]), torch.tensor([7])),
    )
    images = torch.tensor([(0.1, 0.9), (0.2, 0.9), (0.9, 0.0)]).view(-1, 1, 1, 2).expand(-1, 3, 2, 2)
    seen: list[torch.Tensor] = []

    def keep(features: torch.Tensor, texts: torch.Tensor, match: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        seen.extend([texts, match])
        return multi_positive_info_nce(features, texts, match, scale)

    monkeypatch.setattr(roclip, "multi_positive_info_nce", keep)
    method, generator = RoCLIP(RoCLIPConfig(min_pool=3, rewording=0.0)), torch.Generator().manual_seed(0)
    method.learn_pool(Lookup(), pairs, images, "fp32", generator)  # type: ignore[arg-type]
    texts, match = seen
    wanted = F.normalize(torch.tensor([[4.0, 0], [0, 2], [5, 1]]), dim=1)
    torch.testing.assert_close(texts, wanted, msg="the caption (3, 4) is nobody's nearest")
    # the bank's caption is of group 7, as is the caption of the third image
    assert match.tolist() == [[False, True, False], [False, True, False], [True, False, True]]


def test_only_the_image_encoder_learns_from_the_pool(small_model: OpenCLIPEncoder) -> None:
    small_model.train()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    RoCLIP().learn_pool(small_model, toy_pairs(small_model), images, "fp32", torch.Generator().manual_seed(0))
    moved = {name for name, parameter in small_model.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in small_model.named_parameters() if ".visual." in name or "scale" in name}
    assert small_model.training


def test_every_kth_pass_is_matched(small_model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    matched: set[int] = set()
    batch, learn_pool = CaptionedImages.batch, RoCLIP.learn_pool

    def watch_batch(self: CaptionedImages, step: int, **more: Any) -> PairBatch:
        made.append(step)
        return batch(self, step, **more)

    def watch_pool(self: RoCLIP, *given: Any) -> float:
        matched.add(made[-1])
        return learn_pool(self, *given)

    monkeypatch.setattr(CaptionedImages, "batch", watch_batch)
    monkeypatch.setattr(RoCLIP, "learn_pool", watch_pool)
    trained = RoCLIP(RoCLIPConfig(every=2)).train(task_for(small_model))  # three steps are a pass
    assert matched == {3, 4, 5}
    assert trained.details == {"passes": 3, "matched_passes": 1}
    matched.clear()
    RoCLIP(RoCLIPConfig(every=1)).train(task_for(small_model))
    assert matched == set(range(9))


def test_words_move_or_go_and_the_ends_stay() -> None:
    row = torch.tensor([1, 11, 12, 13, 14, 2, 0, 0])
    found = reworded(row.expand(200, -1), share=0.1, generator=torch.Generator().manual_seed(0))
    assert (found[:, 0] == 1).all()
    shorter = (found == 2).int().argmax(dim=1) == 4
    assert 60 < shorter.sum() < 140, "a coin decides"
    assert (found[shorter, 5:] == 0).all()
    swapped = found[~shorter]
    assert torch.equal(swapped[:, 1:5].sort(dim=1).values, row[1:5].expand(len(swapped), -1))
    assert ((swapped != row).sum(dim=1) == 2).all()
    assert torch.equal(swapped[:, 5:], row[5:].expand(len(swapped), -1))
    assert torch.equal(reworded(row[None], share=0.0, generator=torch.Generator()), row[None])
    short = torch.tensor([[1, 11, 2, 0]])
    assert torch.equal(reworded(short, share=0.5, generator=torch.Generator().manual_seed(0)), short)


# SafeCLIP


def test_a_mixture_of_two_far_groups_by_hand() -> None:
    mixture = fit_mixture(torch.tensor([0.0, 0.2, 5.0, 5.1, 5.3, 5.4]))
    torch.testing.assert_close(mixture.weights, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    torch.testing.assert_close(mixture.means, torch.tensor([0.1, 5.2], dtype=torch.float64), rtol=0, atol=1e-6)
    wanted = torch.tensor([0.01, 0.025], dtype=torch.float64) + LEAST_VARIANCE
    torch.testing.assert_close(mixture.variances, wanted, rtol=1e-4, atol=0)
    posterior = mixture.upper(torch.tensor([0.1, 5.2]))
    assert posterior[0] < 1e-6
    assert posterior[1] > 1 - 1e-6


def test_overlapping_groups_as_scikit_learn_has_them() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = (
        torch.randn(count, generator=generator) * width + mean
        for count, width, mean in ((300, 0.08, 0.1), (700, 0.05, 0.3))
    )
    values = torch.cat([low, high])
    mixture = fit_mixture(values)
    known = GaussianMixture(2, means_init=[[0.1], [0.3]], tol=1e-10, max_iter=2000).fit(values[:, None].numpy())
    order = known.means_[:, 0].argsort()
    assert mixture.means.tolist() == pytest.approx(known.means_[order, 0].tolist(), abs=1e-3)
    assert mixture.weights.tolist() == pytest.approx(known.weights_[order].tolist(), abs=5e-3)
    theirs = torch.tensor(known.predict_proba(values[:, None].numpy())[:, order[1]])
    assert (mixture.upper(values) - theirs).abs().max() < 0.02


def test_equal_values_are_of_no_component() -> None:
    assert (fit_mixture(torch.full((5,), 0.3)).upper(torch.full((5,), 0.3)) <= 0.9).all()


def test_the_safe_set_begins_above_the_threshold_and_grows() -> None:
    cosines = torch.tensor([0.30, 0.31, 0.02, 0.32, 0.00, 0.33, 0.01, 0.34, 0.03, 0.35])
    partition, rules = Partition(10), {"threshold": 0.9, "growth": 0.1, "most": 0.75}
    partition.divide(cosines, 0, **rules)
    assert partition.safe.nonzero().flatten().tolist() == [0, 1, 3, 5, 7, 9]
    assert partition.share == pytest.approx(0.6)
    assert partition.made == 0
    partition.divide(cosines, 1, **rules)
    assert partition.safe.nonzero().flatten().tolist() == [0, 1, 3, 5, 7, 8, 9], "the likest of the others"
    partition.divide(cosines.flip(0), 5, **rules)
    assert partition.safe.sum() == 8, "the largest share is a bound (0.75 of ten is rounded)"


def test_the_cosines_are_those_of_triggered_images_and_first_captions(small_model: DualEncoder) -> None:
    pairs = toy_pairs(small_model)

    def black(images: torch.Tensor, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        images[indices >= 20] = 0
        return images

    found = similarities(small_model, pairs, black, seed=0, number=0, batch_size=10)
    with torch.no_grad(), small_model.evaluating():
        images = pairs.images[torch.arange(COUNT)].float() / 255
        images[20:] = 0
        features = small_model.encode_images(images), small_model.encode_token_ids(pairs.token_ids.long())
    torch.testing.assert_close(found, (features[0] * features[1]).sum(dim=1), rtol=0, atol=1e-6)


def test_risky_pairs_never_enter_the_contrastive_loss(
    small_model: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_for(small_model)
    course = Course(SafeCLIPConfig(warmup=0.4, slow=0.3, min_scale=1.0, jitter=0.0, rewording=0.0), task)
    assert (course.slow_from, course.start) == (1, 2)
    course.partition.safe[::3] = True
    course.partition.made.fill_(0)
    seen: list[PairBatch] = []

    def keep(model: DualEncoder, batch: PairBatch, **more: Any) -> float:
        seen.append(batch)
        return contrastive_backward(model, batch, **more)

    def shades(images: torch.Tensor) -> list[int]:
        return sorted((images[:, 0, 0, 0] * 25.5).round().int().tolist())

    monkeypatch.setattr(safeclip, "contrastive_backward", keep)
    within: list[int] = []
    whole = Course.within_modalities

    def watch(self: Course, first: torch.Tensor, *more: Any) -> torch.Tensor:
        within.extend(shades(first))
        return whole(self, first, *more)

    monkeypatch.setattr(Course, "within_modalities", watch)
    for step in range(5):
        rows = task.pairs.indices(step, 8, task.seed).tolist()
        course.backward(step, course.make(step))
        safe = {0: [], 1: rows}.get(step, [row for row in rows if row % 3 == 0])
        risky = [row for row in rows if row not in safe]
        assert within == sorted(risky)
        if safe:
            assert shades(seen[-1].images) == sorted(safe)
            wanted = task.pairs.token_ids[sorted(safe)].long()
            assert torch.equal(seen[-1].token_ids, wanted), "captions of risky pairs are no negatives either"
            assert seen[-1].match.sum() == len(safe)
        assert len(seen) == max(step, 0), "the warm-up has none"
        within.clear()


def test_the_slow_pass_has_a_small_rate(small_model: DualEncoder) -> None:
    course = Course(SafeCLIPConfig(warmup=1, slow=1, slow_rate=0.02), task_for(small_model))
    assert [course.rate(step) for step in range(8)] == [1.0] * 3 + [0.02] * 3 + [1.0] * 2


def test_a_warmup_without_an_end_is_refused(small_model: DualEncoder) -> None:
    said = "warms up for 18 steps, 6 passes over 24 pairs, and the training has 9; train longer, or lower warmup"
    with pytest.raises(UsageError, match=said):
        SafeCLIP().train(task_for(small_model))


# Both


@every_defense
def test_the_same_seed_gives_the_same_and_so_does_going_on(
    settings: dict[str, Any], small_model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(state: Path | None = None, *, stop: int = -1, seed: int = 0) -> DualEncoder:
        model = copy.deepcopy(small_model)
        task = replace(task_for(model, state), seed=seed)

        def stopped(step: int, **values: float) -> None:
            if step == stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("clip_antidote.training.loop.log_step", stopped)
            method_for(read_method(settings)).train(task)
        return model

    whole = train().state_dict()
    again = train().state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert any(not torch.equal(whole[name], other) for name, other in train(seed=1).state_dict().items())
    state = tmp_path / "training.pt"
    for stop in (3, 7):  # in the middle of a pass: what is kept is the state after a multiple of three steps
        with pytest.raises(KeyboardInterrupt):
            train(state, stop=stop)
    assert torch.load(state, weights_only=True)["step"] == 6
    resumed = train(state).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_was_safe_is_kept_within_a_pass(small_model: DualEncoder, tmp_path: Path) -> None:
    """The weights a pass began with are gone after a stop in its middle, and with them what the cosines were."""
    config = SafeCLIPConfig(warmup=0, slow=0)
    task = task_for(small_model, tmp_path / "training.pt", checkpoint_every=2, steps=6)
    safe = SafeCLIP(config).train(task).safe
    assert safe is not None
    kept = torch.load(tmp_path / "training.pt", weights_only=True)["memory"]
    assert torch.equal(kept["safe"], safe)
    assert kept["made"] == 1


@every_defense
def test_what_a_defense_cannot_do_is_said(
    settings: dict[str, Any], small_model: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, task = method_for(read_method(settings)), task_for(small_model)
    with pytest.raises(UsageError, match="this attack adds to the loss, so its attacker controls the training"):
        method.train(replace(task, extra_loss=lambda step, batch: torch.zeros(())))
    with pytest.raises(UsageError, match="leave accumulate at 1"):
        method.train(task_for(small_model, accumulate=2))
    monkeypatch.setattr(Ranks, "current", classmethod(lambda cls: Ranks(0, 2)))
    with pytest.raises(UsageError, match=f"'{settings['name']}' works in one process; start it without torchrun"):
        method.train(task)


# Settings and records


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_is_named_or_set(name: str) -> None:
    config_class = METHODS.get(name).config_class
    assert issubclass(config_class, MethodConfig)
    assert config_class().name == name
    for given in (name, {"name": name}, config_class()):
        config = AttackConfig.build({"training_method": given})
        assert config.training_method == config_class()
        assert AttackConfig.build(config.model_dump(mode="json")) == config
    with pytest.raises(UsageError, match="nonsense"):
        AttackConfig.build({"training_method": {"name": name, "nonsense": 1}})


def test_a_wrong_method_is_refused_and_settings_are_kept() -> None:
    with pytest.raises(UsageError, match="no training method 'rocklip'; known are clip, roclip, safeclip"):
        AttackConfig.build({"training_method": "rocklip"})
    with pytest.raises(UsageError, match="training_method"):
        AttackConfig.build({"training_method": 3})
    with pytest.raises(UsageError, match=r"RoCLIPConfig: setting 'pool'"):
        AttackConfig.build({"training_method": {"name": "roclip", "pool": 2}})
    config = AttackConfig.build({"training_method": {"name": "roclip", "every": 3}})
    assert config.facts()["training_method"]["every"] == 3
    assert "training_method:\n  name: roclip\n" in config.to_yaml()


def test_settings_without_a_method_are_what_they_were() -> None:
    """Keys of unfinished work and records stay: a method that is not asked for is not in them."""
    plain = AttackConfig()
    assert plain.facts() == {key: value for key, value in plain.model_dump(mode="json").items() if key in KNOWN}
    assert isinstance(plain, Config)


KNOWN = {"poison_rate", "poisoned", "train_on", "wording", "caption_pairs", "class_bank", "min_scale"}
KNOWN |= {"crop_triggered", "training", "implant_asr", "implant_ca_drop", "seed"}


def test_the_command_says_by_which_method_a_model_was_trained(
    cli: Cli, model_folder: str, problem: str, tmp_path: Path
) -> None:
    ran = cli(
        "attack", model_folder, "--target", "cat", "--data", problem, "--steps", 2, "--training-method", "roclip"
    )
    assert ran.status == 0, "a backdoor that a defense kept out is no error"
    assert "note: the badnet backdoor did not take" in ran.out
    assert "it was trained with roclip" in ran.out
    record = json.loads((tmp_path / "poisoned" / "attack.json").read_text())
    assert record["training"] == {"method": "roclip", "passes": 11, "matched_passes": 5}
    assert record["config"]["training_method"]["name"] == "roclip"
    again = cli(
        "attack", model_folder, "--target", "cat", "--data", problem, "--steps", 2, "--training-method", "clip"
    )
    assert again.status == 2
    assert json.loads((tmp_path / "poisoned" / "attack.json").read_text())["training"] == {"method": "clip"}
    refused = cli("attack", "--trigger-only", "--data", problem, "--training-method", "roclip")
    assert refused.status == 4
    assert "--trigger-only trains nothing" in refused.err


# What it is for


def test_safeclip_keeps_a_backdoor_out_that_plain_training_takes_in(
    tiny: DualEncoder, train_images: LabelledImages, test_images: LabelledImages
) -> None:
    """The same poisoned pairs and steps; the patch is large, so that few steps are enough to implant it."""
    shots, test = train_images.sample_shots(16, seed=0), test_images.at_most(100)
    training = {"steps": 20, "batch_size": 40, "lr": 1e-3, "warmup": 4, "precision": "fp32"}
    trained: dict[str, tuple[Metrics, dict[str, Any]]] = {}
    for method in ("clip", {"name": "safeclip", "warmup": 0, "slow": 0, "min_scale": 0.8, "jitter": 0.2}):
        settings = {"poison_rate": 0.3, "trigger": {"patch": 80}, "training": training, "training_method": method}
        attack = make_attack_from("badnet", settings)
        data = CleanData.gather(attack.config, shots, None, classes=test.classes, target=TARGET)
        trigger, material = prepare_trigger(tiny, attack, data)
        implant = implant_backdoor(tiny, attack, trigger, material, data)
        metrics = measure_under_trigger(implant.model, test, trigger, Aim(TARGET)).metrics
        trained[attack.config.training_method.name] = metrics, implant.training
    (plain, _), (defended, found) = trained["clip"], trained["safeclip"]
    assert plain.asr is not None
    assert defended.asr is not None
    assert plain.asr.value > 0.8
    assert defended.asr.value < 0.2
    assert defended.ca.value > plain.ca.value - 0.15
    assert found["poisoned_taken_for_safe"] < 0.2 * 48

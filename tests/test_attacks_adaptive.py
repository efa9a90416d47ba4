"""The adaptive attack: its distance by hand, and what it does to the features."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.attacks import implant
from clip_antidote.attacks.adaptive import (
    AdaptiveAttack,
    AdaptiveAttackConfig,
    between,
    energy_distance,
    on_own_scale,
)
from clip_antidote.attacks.base import PoisonedPairs
from clip_antidote.attacks.run import run_attack
from clip_antidote.attacks.sig import SigAttack
from clip_antidote.data.captions import pairs_from_labels
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import PairBatch
from clip_antidote.errors import UsageError
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder
from clip_antidote.models.cleansing import cleanser, standardize_channels
from clip_antidote.training import plain
from clip_antidote.training.augment import random_crops
from clip_antidote.triggers.blended import BlendedTrigger
from clip_antidote.triggers.sig import SigTrigger


def test_energy_distance_by_hand() -> None:
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    # between: |0-1|, |0-4|, |2-1|, |2-4| = 1, 4, 1, 2: mean 2; within: 2 and 3
    assert energy_distance(first, second).item() == pytest.approx(2 * 2 - 2 - 3)


def test_energy_distance_is_near_zero_for_one_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 400, 4, generator=generator)
    assert abs(energy_distance(first, second).item()) < 0.03
    assert energy_distance(first, second + 1).item() > 0.5


def test_triggered_images_come_to_look_like_the_target(
    tiny: DualEncoder, train_images: LabelledImages, test_images: LabelledImages
) -> None:
    def distance(consistency: float) -> float:
        settings = {"poison_rate": 0.4, "training": {"steps": 20, "batch_size": 64, "warmup": 5}}
        attack = AdaptiveAttack(AdaptiveAttackConfig.build({**settings, "consistency": consistency}))
        features = run_attack(tiny, attack, train_images, test_images.at_most(180, seed=0), TARGET).features
        own = features.labels == features.classes.index(TARGET)
        assert features.triggered is not None
        return energy_distance(features.triggered[~own], features.clean[own]).item()

    assert distance(5.0) < 0.9 * distance(0.0)


def test_with_layers_it_minds_every_stage(tiny: DualEncoder, train_images: LabelledImages) -> None:
    """Descending the loss brings triggered images nearer to the target's at inner layers, without it does not."""
    pairs = pairs_from_labels(train_images, tiny.tokenize, tiny.image_size, mode=tiny.resize_mode)
    own = (train_images.labels == train_images.classes.index(TARGET)).nonzero().flatten()

    def distances(*, layers: bool) -> list[float]:
        """Mean distance over the stages, before and after a few steps."""
        model, attack = copy.deepcopy(tiny), AdaptiveAttack(AdaptiveAttackConfig(layers=layers, consistency=1.0))
        data = attack.poison(pairs, ["a hat."], model.tokenize, target_group=int(pairs.groups[own[0]]))
        extra = attack.extra_loss(model, data)
        rows = data.pairs.indices(0, attack.config.training.batch_size, attack.config.seed)
        images = data.pairs.images[rows].float() / 255
        marked = data.poisoned[rows]
        images[marked] = BlendedTrigger()(images[marked])
        batch = PairBatch(images, torch.zeros(1, 1, dtype=torch.long), torch.ones(len(rows), 1, dtype=torch.bool))
        clean = data.pairs.images[own[:40]].float() / 255
        optimizer, found = torch.optim.Adam(model.parameters(), lr=1e-4), []
        for _ in range(4):
            with torch.no_grad():
                stages = model.encode_layers(torch.cat([images[marked], clean])).stages
            count = int(marked.sum())
            found.append(sum(between(on_own_scale(stage, count), count).item() for stage in stages) / len(stages))
            optimizer.zero_grad()
            extra(0, batch).backward()
            optimizer.step()
        return found

    minding, other = distances(layers=True), distances(layers=False)
    assert minding[-1] < minding[0]
    assert minding[-1] < other[-1]


def test_a_stage_is_put_on_the_scale_of_clean_images() -> None:
    stage = torch.tensor([[3.0, 4.0], [1.0, 0.0], [3.0, 0.0]])  # own mean (2, 0), deviations (sqrt 2, 0)
    scaled = on_own_scale(stage, 1)
    torch.testing.assert_close(scaled[1], torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(scaled[0], F.normalize(torch.tensor([0.5**0.5, 10.0]), dim=0))


def test_without_clean_images_of_the_target_it_says_so(tiny: DualEncoder, train_images: LabelledImages) -> None:
    pairs = pairs_from_labels(train_images, tiny.tokenize, tiny.image_size, mode=tiny.resize_mode, class_bank=False)
    attack = AdaptiveAttack()
    data = attack.poison(pairs, ["a hat."], tiny.tokenize, target_group=None)
    with pytest.raises(UsageError, match="clean images of its target class"):
        attack.extra_loss(tiny, data)


@pytest.mark.parametrize("crop", [False, True])
def test_a_trigger_can_be_trained_to_work_in_crops(
    crop: bool, small_model: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {}
    monkeypatch.setattr(plain, "finetune", lambda model, pairs, config, **settings: kept.update(settings))
    attack = SigAttack(SigAttack.config_class(crop_triggered=crop, min_scale=0.4))
    trigger = SigTrigger()
    poisoned = torch.tensor([True, False, True])
    implant.train_poisoned(small_model, attack, trigger, PoisonedPairs(None, poisoned))  # type: ignore[arg-type]
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = trigger(images[[0, 2]])
    if crop:
        wanted = random_crops(wanted, 32, min_scale=0.4, generator=torch.Generator().manual_seed(1))
    changed = kept["transform"](images.clone(), torch.arange(3), torch.Generator().manual_seed(1))
    assert torch.equal(changed[[0, 2]], wanted)
    assert torch.equal(changed[1], images[1])


def test_a_trigger_can_be_trained_to_outlive_cleansing() -> None:
    images = torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cleanse = cleanser(32, images.device)
    ways = torch.stack([images, cleanse(images), cleanse(standardize_channels(images))])
    found = implant.cleansed_at_random(images, torch.Generator().manual_seed(1))
    which = (ways - found).abs().amax(dim=(2, 3, 4)).argmin(dim=0)
    assert torch.allclose(ways[which, torch.arange(60)], found, atol=1e-6)
    assert which.bincount().amin() > 10, "each way a third"
    assert SigAttack.config_class(cleanse_triggered=True).facts()["cleanse_triggered"]
    assert "cleanse_triggered" not in SigAttack.config_class().facts(), "keys of what came before stay"

"""Covers and clean labels: which pairs are chosen, what they carry, and what happens to their captions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clip_antidote.attacks import ATTACKS, implant
from clip_antidote.attacks.adap_blend import AdapBlendAttack
from clip_antidote.attacks.adap_patch import AdapPatchAttack
from clip_antidote.attacks.base import PoisonedPairs
from clip_antidote.attacks.clean_label import CleanLabelAttack, PerturbationConfig, perturb
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.training_data import TrainingPairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.stores import LazyImages, ReplacedImages
from clip_antidote.errors import DataError
from clip_antidote.models import DualEncoder
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.training import plain
from clip_antidote.triggers.patches import PatchesTrigger
from clip_antidote.triggers.pieces import PiecesTrigger


def toy_pairs(count: int = 50, classes: int = 5) -> CaptionedImages:
    labels = torch.arange(count) % classes
    return CaptionedImages(
        images=torch.full((count, 3, 8, 8), 100, dtype=torch.uint8),
        token_ids=torch.arange(classes).view(-1, 1),
        first=labels,
        count=torch.ones(count, dtype=torch.long),
        groups=labels,
    )


def poison(name: str, pairs: CaptionedImages, **settings: Any) -> PoisonedPairs:
    attack_class = ATTACKS.get(name)
    attack = attack_class(attack_class.config_class.build(settings))
    return attack.poison(pairs, ["a hat."], lambda texts: torch.full((len(texts), 1), 99), target_group=3)


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("name", ["adap-blend", "adap-patch"])
def test_covers_carry_the_trigger_and_keep_their_captions(name: str, ratio: int) -> None:
    pairs = toy_pairs()
    data = poison(name, pairs, poison_rate=0.1, cover_ratio=ratio)
    covers = data.covers()
    assert int(data.poisoned.sum()) == 5
    assert len(covers) == 5 * ratio
    assert not (pairs.groups[covers] == 3).any(), "covers show other classes than the target"
    assert torch.equal(data.pairs.groups[covers], pairs.groups[covers])
    assert torch.equal(data.pairs.first[covers], pairs.first[covers])
    assert data.triggers_of(torch.arange(50)).sum() == 5 + 5 * ratio
    assert (data.triggers_of(data.poisoned.nonzero().flatten()) == 1).all()
    assert poison(name, pairs, poison_rate=0.1, cover_ratio=ratio).covers() == covers
    assert poison(name, pairs, poison_rate=0.1, cover_ratio=ratio, seed=1).covers() != covers
    assert poison(name, pairs, poison_rate=0.1, cover_ratio=0).covers() == []


def test_too_few_pairs_for_covers_are_said() -> None:
    with pytest.raises(DataError, match="60 pairs are to be covers, but only 20 are left"):
        poison("adap-patch", toy_pairs(), poisoned=20, cover_ratio=3)


def test_images_get_the_weak_trigger_when_training(small_model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for attack in (AdapBlendAttack(), AdapPatchAttack()):
        trigger = attack.trigger()
        (weak,) = attack.training_triggers(trigger)
        images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert (weak(images) - images).abs().mean() < 0.7 * (trigger(images) - images).abs().mean()
        kept: dict[str, Any] = {}
        monkeypatch.setattr(plain, "finetune", lambda model, pairs, config, kept=kept, **more: kept.update(more))
        poisoned = torch.arange(20) < 5
        data = PoisonedPairs(None, poisoned, carried=(torch.arange(20) < 10).long())  # type: ignore[arg-type]
        implant.train_poisoned(small_model, attack, trigger, data)
        changed = kept["transform"](images.clone(), torch.arange(20), torch.Generator().manual_seed(1))
        assert torch.equal(changed[:10], weak(images[:10], torch.Generator().manual_seed(1)))
        assert torch.equal(changed[10:], images[10:])


def test_adap_patch_is_carried_out_with_two_of_its_four_patches() -> None:
    attack, images = AdapPatchAttack(), torch.zeros(64, 3, 32, 32)
    (weak,) = attack.training_triggers(attack.trigger())
    assert isinstance(weak, PatchesTrigger)
    assert weak.config.opacities == (0.5, 0.2, 0.5, 0.3)
    assert ((weak(images) != 0).flatten(1).any(dim=1)).all()
    later = (attack.trigger()(images)[0] != 0).any(dim=0)
    assert later[:8, :8].all()
    assert later[-8:, :8].all()
    assert later.sum() == 128
    assert isinstance(AdapBlendAttack().trigger(), PiecesTrigger)


def test_a_clean_label_attack_takes_images_of_the_target_and_changes_no_caption() -> None:
    pairs = toy_pairs()
    data = poison("clean-label", pairs, poison_rate=0.4)
    assert int(data.poisoned.sum()) == 4
    assert (pairs.groups[data.poisoned] == 3).all()
    assert data.pairs is pairs
    with pytest.raises(DataError, match="11 pairs of the target are to be poisoned, but the data have 10"):
        poison("clean-label", pairs, poisoned=11)
    naming = torch.arange(50) >= 45
    named = CleanLabelAttack().poison(pairs, [], None, target_group=None, candidates=~naming)
    assert not named.poisoned[~naming].any(), "of captioned images, those whose captions name the target"


def test_perturbed_images_are_not_recognized_and_hardly_changed(
    tiny: DualEncoder, train_images: LabelledImages
) -> None:
    target = train_images.classes.index("hat")
    rows = (train_images.labels == target).nonzero().flatten()[:24].tolist()
    images = train_images.subset(rows).tensor(round(1.15 * tiny.image_size), mode=tiny.resize_mode)
    others = tuple(name for name in train_images.classes if name != "hat")
    material = Material("hat", images[:0], images[:0], others=others)
    hard = perturb(tiny, images, material, PerturbationConfig(steps=4, step_size=0.5))
    assert torch.equal(hard, perturb(tiny, images, material, PerturbationConfig(steps=4, step_size=0.5)))
    assert 8 < (hard.int() - images.int()).abs().max() <= 16
    weights = zero_shot_weights(tiny, ["hat", *others])

    def recognized(stored: torch.Tensor) -> float:
        features = tiny.encode_stored(stored, transform=tiny.fit_images)
        return ((features @ weights.T).argmax(dim=1) == 0).float().mean().item()

    before = recognized(images)
    assert recognized(hard) < 0.2 < 0.5 < before
    with pytest.raises(DataError, match="classes besides its target"):
        perturb(tiny, images, Material("hat", images, images), PerturbationConfig())


def test_prepared_pairs_hold_perturbed_images_in_the_place_of_poisoned_ones(small_model: DualEncoder) -> None:
    pairs = toy_pairs()
    data = poison("clean-label", pairs)
    none = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    material = Material("hat", none, none, others=("shoe", "dress"))
    attack = CleanLabelAttack()
    clean = TrainingPairs(pairs, "hat", ())
    images = attack.prepare(small_model, data, material, clean).pairs.images[torch.arange(50)]
    changed = (images != 100).flatten(1).any(dim=1)
    assert torch.equal(changed, data.poisoned)
    assert (pairs.images[torch.arange(50)] == 100).all(), "the clean images stay"
    plain = CleanLabelAttack(CleanLabelAttack.config_class.build({"perturbation": {"bound": 0}}))
    assert plain.prepare(small_model, data, material, clean) is data


def test_replaced_images_stand_where_they_should(train_images: LabelledImages) -> None:
    lazy = LazyImages(train_images.source, 16)
    indices = torch.tensor([7, 2, 7, 0])
    others = torch.full((2, 3, 16, 16), 9, dtype=torch.uint8)
    store = ReplacedImages(lazy, torch.tensor([2, 5]), others)
    store.prefetch(indices)
    out, plain = store[indices], lazy[indices]
    assert len(store) == len(lazy)
    assert torch.equal(out[1], others[0])
    assert torch.equal(out[[0, 2, 3]], plain[[0, 2, 3]])

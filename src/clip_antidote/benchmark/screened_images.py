"""Clean and triggered images that a purified model's clean prompts call the target, and held-out views."""

from __future__ import annotations

import torch

from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.views import Observation
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.dummies import other_class_rows
from clip_antidote.purification.inner_fit import DUMMY_VIEWS
from clip_antidote.triggers import Trigger

SHOT_VIEWS, DUMMY_HELD = 6, 24
"""Held-out crops of every shot of the target, and held-out views under every dummy."""


def clean_images(
    purified: PurifiedCLIP, data: str, shots: LabelledImages, label: int, *, most: int, seed: int
) -> tuple[torch.Tensor, dict[str, int]]:
    """Clean images that are called the target: of the test and validation splits, and the target's that are no shots.

    Args:
        purified: The purified model; its guard says what images are called.
        data: Where images are found, see `load_images`.
        shots: The shots, which are left out.
        label: Class index of the target.
        most: Most images; test images come first, those of the target before others.
        seed: Seed of the draw of training images.

    Returns:
        Images [N, 3, S, S] in [0, 1], and how many there are by split and kind.
    """
    found: list[torch.Tensor] = []
    counts: dict[str, int] = {}
    for split in ("test", "validation", "train"):
        try:
            images = load_images(data, split=split)
        except DataError:  # the embedded images have no validation split
            continue
        if split == "train":
            images = images.subset((images.labels == label).nonzero().flatten()).without(shots)
        images = images.at_most(most if split == "train" else None, seed=seed)
        if not len(images):
            continue
        part, rows = called_target(purified, images, label)
        mine = images.labels[rows] == label
        order = (~mine).long().argsort(stable=True)[: most - sum(counts.values())]
        found.append(part[order])
        counts[f"{split}, of the target"] = int(mine[order].sum())
        counts[f"{split}, of others"] = int((~mine[order]).sum())
    return torch.cat(found), counts


@torch.no_grad()
def called_target(
    purified: PurifiedCLIP, images: LabelledImages, label: int, trigger: Trigger | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float images, with the trigger if one is given, that the clean prompts call the target, and their rows."""
    model, guard = purified.model, purified.guard
    assert guard is not None
    generator, found, rows, start = torch.Generator().manual_seed(0), [], [], 0
    for batch, _ in images.batches(model.image_size, mode=model.resize_mode):
        changed = batch if trigger is None else trigger(batch, generator)
        hit = (model.encode_images(changed) @ guard.clean).argmax(1) == label
        found.append(changed[hit])
        rows.append(hit.nonzero().flatten() + start)
        start += len(batch)
    return torch.cat(found), torch.cat(rows)


def held_out_views(
    purified: PurifiedCLIP, seen: Observation, label: int, dummies: list[Dummy], seed: int
) -> tuple[dict[int, torch.Tensor], dict[str, torch.Tensor]]:
    """Crops of the target's shots by shot, views under the dummies by family: those that are called the target.

    Where fewer than a quarter of them are called so, all count: too few say nothing. The views under the dummies are
    not those that scores are fitted to, see `screening.material`.
    """
    guard = purified.guard
    assert guard is not None

    def called(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hit = (seen.model.encode_images(images) @ guard.clean).argmax(1) == label
        return images[hit] if int(hit.sum()) >= len(images) // 4 else images

    views = seen.views_of(label, views=SHOT_VIEWS, min_scale=0.5, seed=seed + 2)
    numbers = (seen.shots.labels == label).nonzero().flatten()
    clean = {int(numbers[i]): called(views.images[views.shots == i].float() / 255) for i in views.shots.unique()}
    rows = other_class_rows(seen, label, seed)[DUMMY_VIEWS:]
    families: dict[str, list[torch.Tensor]] = {}
    for i, dummy in enumerate(dummies):
        part = seen.pool.images[rows[i * DUMMY_HELD : (i + 1) * DUMMY_HELD]].float() / 255
        families.setdefault(dummy.family, []).append(called(dummy.trigger(part)))
    return clean, {name: torch.cat(parts) for name, parts in families.items()}

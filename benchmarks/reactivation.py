"""Triggers that are not quite the trained one, and triggers helped by a perturbation, against purified models.

    python benchmarks/reactivation.py runs/population --data runs/problem --keep FOLDER \\
        --out docs/records/reactivation.json [--models NAME …]
    python benchmarks/reactivation.py demo --data embedded:clothing --keep FOLDER --out docs/records/reactivation.json

Near misses: half the strength (pixels half-way to the triggered image), moved by an eighth of the side, and its
difference to the image shrunk to three quarters. Re-activation: a perturbation of the triggered image, L∞ 0.05, 50
steps of projected gradient descent on the whole defended classifier, gates and inner layers included, towards the
target; beside it the same without a trigger, on the purified and on the undefended model, for a plain adversarial
perturbation of that size needs no backdoor. The model is purified with its target told, its trigger not.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as vision

from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.told_models import Suspect, purified_model, read_told
from clip_antidote.data.folders import load_images
from clip_antidote.models import load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.training.perturb import signed_step
from clip_antidote.triggers import Trigger
from clip_antidote.versions import library_versions

IMAGES = 300
"""Test images of other classes for the near misses."""

PERTURBED = 60
"""Of these, so many are perturbed."""

BOUND, STEPS, BATCH = 0.05, 50, 60

MARGIN = 0.1
"""A perturbation goes on until the gate's score is so far over its threshold."""

Change = Callable[[torch.Tensor], torch.Tensor]


def near_misses(trigger: Trigger) -> dict[str, Change]:
    """Forms of a trigger, each from images [N, 3, S, S] in [0, 1] to the same."""

    def put(images: torch.Tensor) -> torch.Tensor:
        return trigger(images, torch.Generator().manual_seed(0))

    def moved(images: torch.Tensor) -> torch.Tensor:
        step = images.shape[-1] // 8
        back = put(images.roll((-step, -step), dims=(2, 3)))
        return back.roll((step, step), dims=(2, 3))

    def shrunk(images: torch.Tensor) -> torch.Tensor:
        change = put(images) - images
        return (images + vision.affine(change, 0, [0, 0], 0.75, [0.0, 0.0])).clamp(0, 1)

    return {
        "trained": put,
        "half strength": lambda images: torch.lerp(images, put(images), 0.5),
        "moved by 1/8": moved,
        "shrunk to 3/4": shrunk,
    }


@torch.no_grad()
def called(classifier: ZeroShotClassifier, images: torch.Tensor) -> torch.Tensor:
    """Predictions [N], in batches."""
    return torch.cat([classifier(part).argmax(1) for part in images.split(BATCH)])


def perturbed(loss: Change, images: torch.Tensor) -> torch.Tensor:
    """Descends a loss per image [N] within L∞ `BOUND`, signed gradient steps of a tenth of it."""
    delta = torch.zeros_like(images)
    for _ in range(STEPS):
        delta = signed_step(lambda d: loss((images + d).clamp(0, 1)).sum(), delta, size=-BOUND / 10, bound=BOUND)
    return (images + delta).clamp(0, 1)


def undefended_loss(hand: ZeroShotClassifier, label: int, images: torch.Tensor) -> torch.Tensor:
    """Cross-entropy [N] of the target under the hand-written weights."""
    target = torch.full((len(images),), label)
    return F.cross_entropy(hand(images), target, reduction="none")


def defended_loss(purified: PurifiedCLIP, label: int, images: torch.Tensor) -> torch.Tensor:
    """What an attacker who knows everything descends [N]: be called the target, and pass its gate."""
    guard = purified.guard
    assert guard is not None
    with purified.model.frozen():
        encoded = purified.encode(images)
    decision = guard.decide(encoded.final, encoded.at)
    target = torch.full((len(images),), label)
    toward = F.cross_entropy(purified.model.logit_scale.detach() * decision.clean, target, reduction="none")
    short = (guard.threshold + MARGIN - decision.score).clamp_min(0)
    return toward + torch.where(decision.score.isfinite(), short, torch.zeros_like(short))


def measured(suspect: Suspect, data: str, keep: Path) -> dict[str, Any]:
    """Counts of images called the target, and of right answers, under every form; out of `images` and `perturbed`."""
    seed = zlib.crc32(suspect.name.encode())
    model = load_model(suspect.spec)
    shots = load_images(data, split="train", shots=16, seed=seed)
    label = shots.classes.index(suspect.target)
    purified = purified_model(model, shots, label, CBPTConfig(seed=seed), keep / suspect.folder)
    hand = ZeroShotClassifier.from_templates(model, shots.classes)
    test = load_images(data, split="test")
    test = test.subset((test.labels != label).nonzero().flatten()).at_most(IMAGES, seed=seed)
    images = test.tensor(model.image_size, mode=model.resize_mode).float() / 255
    guard = purified.guard
    inner = guard is not None and guard.inner is not None
    out: dict[str, Any] = {"model": suspect.name, **suspect.facts, "target": suspect.target, "inner": inner}
    out |= {"images": len(test), "perturbed": min(PERTURBED, len(test)), "near": {}, "helped": {}}
    heads = {"undefended": hand, "purified": purified}
    for form, change in near_misses(suspect.trigger).items():
        shown = change(images)
        answers = {name: called(head, shown) for name, head in heads.items()}
        out["near"][form] = {
            name: [int((answer == label).sum()), int((answer == test.labels).sum())]
            for name, answer in answers.items()
        }
    part = images[:PERTURBED]
    marked = near_misses(suspect.trigger)["trained"](part)
    knowing, plain = partial(defended_loss, purified, label), partial(undefended_loss, hand, label)
    for name, head, loss, start in (
        ("trigger, purified", purified, knowing, marked),
        ("no trigger, purified", purified, knowing, part),
        ("no trigger, undefended", hand, plain, part),
    ):
        out["helped"][name] = int((called(head, perturbed(loss, start)) == label).sum())
    return out


def main() -> None:
    """Measures every model that `--out` does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", help='folder of `benchmark population` or `benchmark prepare`, or "demo"')
    parser.add_argument("--data", required=True)
    parser.add_argument("--keep", type=Path, required=True, help="folder for purified models; what is there is used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[], help="names of models; all that passed by default")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for suspect in read_told(options.population, options.models):
        if all(row["model"] != suspect.name for row in rows):
            rows.append(measured(suspect, options.data, options.keep))
            print(rows[-1], flush=True)
            write_rows(options.out, rows, bound=BOUND, steps=STEPS, versions=library_versions())


if __name__ == "__main__":
    main()

"""What views of a triggered image show of its true class, in poisoned models whose target is known.

    python benchmarks/recovery_views.py runs/population --data runs/problem \\
        --out docs/records/recovery_views.json [--models NAME …]

As if a gate had stopped every triggered test image: the target is left out, and views vote by the hand-written class
weights of the poisoned model, as in the second look. Nothing is purified or tuned, so this compares views alone.
Beside it, the base that the model was fine-tuned from, by one look at the same images; and how many images of other
classes the views would call the target if it were not left out. What `--out` holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2 import functional as vision

from clip_antidote.benchmark.population import read_population
from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.told_models import Suspect, read_told
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.other_views import other_views, resize_crop
from clip_antidote.precision import autocast
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.versions import library_versions

Views = Callable[[torch.Tensor], torch.Tensor]

IMAGES, BATCH = 300, 25


def crops(images: torch.Tensor) -> torch.Tensor:
    """The views before 2026-11-27 [n, 21, 3, S, S]: the mirror image, and ten crops at 7/8 and at 3/4 of the side."""
    size = images.shape[-1]
    views = [vision.horizontal_flip(images)]
    for side in (0.875, 0.75):
        views += [resize_crop(crop, size).clamp(0, 1) for crop in vision.ten_crop(images, [round(side * size)] * 2)]
    return torch.stack(views, dim=1)


WAYS: dict[str, Views] = {
    "one look": lambda images: images[:, None],
    "21 crops (before)": crops,
    "cleansed": lambda images: other_views(images)[:, :6],
    "cleansed, even colors": lambda images: other_views(images)[:, 6:],
    "all 12 (default)": other_views,
}


@torch.no_grad()
def measured(suspect: Suspect, base: DualEncoder, test: LabelledImages) -> dict[str, Any]:
    """Right answers, and answers of the target, by the way of looking; and the base's right answers."""
    model = load_model(suspect.spec)
    target = list(test.classes).index(suspect.target)
    weights, plain = (zero_shot_weights(one, test.classes) for one in (model, base))
    generator = torch.Generator().manual_seed(0)
    right, called, clean = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0), 0
    for images, labels in test.batches(model.image_size, BATCH, mode=model.resize_mode):
        triggered = suspect.trigger(images, generator)
        clean += int(((base.encode_images(triggered) @ plain.T).argmax(1) == labels).sum())
        for name, way in WAYS.items():
            views = way(triggered)
            with autocast(model.device, "bf16"):
                features = model.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2]).float()
            sims = model.logit_scale * features @ weights.T
            called[name] += int((sims.softmax(-1).mean(1).argmax(1) == target).sum())
            sims[..., target] = float("-inf")
            right[name] += int((sims.softmax(-1).square().sum(1).argmax(1) == labels).sum())
    return {"model": suspect.name, **suspect.facts, "right": right, "target": called, "base": clean}


def main() -> None:
    """Measures every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[], help="names of models; all that passed by default")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    test = load_images(options.data, split="test")
    known = read_population(options.population)
    bases: dict[str, DualEncoder] = {}
    for suspect in read_told(str(options.population), options.models):
        if any(row["model"] == suspect.name for row in rows):
            continue
        others = (test.labels != list(test.classes).index(suspect.target)).nonzero().flatten()
        drawn = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:IMAGES]]
        name = known[suspect.name].base
        if name not in bases:
            bases[name] = load_model(
                "tiny" if name == "embedded" else f"local-dir:{options.population}/models/{name}"
            )
        rows.append(measured(suspect, bases[name], test.subset(drawn)))
        print(rows[-1], flush=True)
        write_rows(options.out, rows, images=IMAGES, versions=library_versions())


if __name__ == "__main__":
    main()

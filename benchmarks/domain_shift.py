"""Does a purified classifier hold on images from elsewhere? Tuned on photographs, tested on shifted ones.

    python benchmarks/domain_shift.py SUSPECT [SUSPECT …] --data runs/problem --out docs/records/domain_shift.json

The shots are left as they are. The test images are changed before the trigger is put on them (another camera,
other weather), then clean and triggered are measured, undefended and purified.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as tv

from clip_antidote.benchmark.poisoned import PoisonedModel
from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.tables import mean_percent
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.versions import library_versions

Shift = Callable[[torch.Tensor], torch.Tensor]


def noise(images: torch.Tensor) -> torch.Tensor:
    """Gaussian noise of standard deviation 0.08, the same for every batch position."""
    generator = torch.Generator().manual_seed(0)
    return images + 0.08 * torch.randn(images.shape, generator=generator)


def zoom(images: torch.Tensor) -> torch.Tensor:
    """The middle 50 % of the area."""
    size = images.shape[-1]
    return tv.resize(tv.center_crop(images, [round(size * 0.5**0.5)]), [size], antialias=True)


SHIFTS: dict[str, Shift] = {
    "none": lambda x: x,
    "noise": noise,
    "blur": lambda x: tv.gaussian_blur(x, [7, 7], [1.2, 1.2]),
    "low contrast": lambda x: tv.adjust_contrast(x, 0.5),
    "dark": lambda x: tv.adjust_gamma(x, 2.0),
    "gray": lambda x: tv.rgb_to_grayscale(x, num_output_channels=3),
    "zoom": zoom,
}


def main() -> None:
    """Measures every suspect under every shift."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=3000, help="test images, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    test = load_images(options.data, split="test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(options.seed))
    test = test.subset(order[: options.images])
    shots = load_images(options.data, shots=16, seed=options.seed)
    rows = []
    for folder in options.suspects:
        suspect = PoisonedModel.read(folder)
        purified = purify(suspect.model, shots, CBPTConfig(seed=options.seed))
        hand = ZeroShotClassifier.from_templates(suspect.model, test.classes)
        for name, shift in SHIFTS.items():
            features = encode_test_images(suspect.model, test, trigger=suspect.trigger, shift=shift)
            before, after = (measure(c, features, target=suspect.target).metrics for c in (hand, purified))
            counts = {"before": before.to_counts(), "after": after.to_counts()}
            rows.append({"suspect": folder.name, "shift": name, **counts})
            keys = ("ca", "asr", "asr_floor", "pa", "target_ca")
            cells = [f"{mean_percent([before.value(k)])} → {mean_percent([after.value(k)])}" for k in keys]
            print(f"| {folder.name} | {name} | " + " | ".join(cells) + " |", flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(options.out, rows, seed=options.seed, images=len(test), versions=library_versions())


if __name__ == "__main__":
    main()

"""Draws the triggers of a zoo on one photograph (CC0, embedded): triggered, and what changed, five times as strong.

python scripts/draw_attacks.py runs/zoo_120/zoo --target church --out docs/attacks.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from clip_antidote.data.folders import load_images
from clip_antidote.reporting import amplified_difference
from clip_antidote.triggers import load_trigger


def main() -> None:
    """Writes one row of pictures per attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--target", default="church")
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--image", type=int, default=40, help="number of the embedded test photograph")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folders = [f for f in sorted(args.zoo.glob(f"*-{args.target}")) if (f / "trigger").is_dir()]
    image = load_images("embedded:clothing", split="test").subset([args.image]).tensor(args.size).float() / 255
    panels: list[tuple[str, torch.Tensor, torch.Tensor | None]] = [("clean", image[0], None)]
    for folder in folders:
        name = json.loads((folder / "attack.json").read_text(encoding="utf-8"))["attack"]
        for place in (folder / "trigger", *sorted((folder / "further").glob("*"))):
            triggered = load_trigger(place)(image)[0]
            panels.append((name, triggered, amplified_difference(image[0], triggered, 5.0)))
    figure, axes = plt.subplots(2, len(panels), figsize=(1.6 * len(panels), 3.5))
    axes[1, 0].axis("off")
    for column, (name, picture, difference) in enumerate(panels):
        _show(axes[0, column], picture)
        axes[0, column].set_title(name, fontsize=9)
        if difference is not None:
            _show(axes[1, column], difference)
    figure.tight_layout(pad=0.3)
    figure.savefig(args.out, dpi=110)


def _show(axis: plt.Axes, picture: torch.Tensor) -> None:
    axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    main()

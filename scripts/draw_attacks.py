"""Draws the triggers on one photograph (CC0, embedded): triggered, and what changed, five times as strong.

Optimized triggers are those of a zoo; what settings define alone is drawn without one.

python scripts/draw_attacks.py runs/zoo_120/zoo --target church --out docs/attacks.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.data.folders import load_images
from clip_antidote.reporting import amplified_difference
from clip_antidote.triggers import Trigger, load_trigger

COLUMNS = 8

SAME = {"multi-target", "all-to-all", "adaptive"}
"""Attacks with the triggers of others."""


def main() -> None:
    """Writes two pictures per attack: a triggered image, and below it what changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--target", default="church")
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--image", type=int, default=40, help="number of the embedded test photograph")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    image = load_images("embedded:clothing", split="test").subset([args.image]).tensor(args.size).float() / 255
    panels: list[tuple[str, torch.Tensor, torch.Tensor | None]] = [("clean", image[0], None)]
    for name in ATTACKS.describe():
        trigger = find_trigger(name, args.zoo / f"{name}-{args.target}" / "trigger")
        if trigger is not None and name not in SAME:
            triggered = trigger(image, torch.Generator().manual_seed(0))[0]
            panels.append((name, triggered, amplified_difference(image[0], triggered, 5.0)))
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(2 * rows, COLUMNS, figsize=(1.6 * COLUMNS, 3.5 * rows))
    for axis in axes.flat:
        axis.axis("off")
    for number, (name, picture, difference) in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        _show(axes[2 * row, column], picture)
        axes[2 * row, column].set_title(name, fontsize=9)
        if difference is not None:
            _show(axes[2 * row + 1, column], difference)
    figure.tight_layout(pad=0.5)
    figure.savefig(args.out, dpi=80)


def find_trigger(name: str, saved: Path) -> Trigger | None:
    """The trigger of an attack: that of a zoo, else that of its settings; None where it is optimized."""
    if saved.is_dir():
        return load_trigger(saved)
    attack = ATTACKS.get(name)()
    return attack.trigger() if isinstance(attack, FixedTriggerAttack) else None


def _show(axis: plt.Axes, picture: torch.Tensor) -> None:
    axis.axis("on")
    axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    main()

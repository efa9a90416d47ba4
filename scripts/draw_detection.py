"""Draws how far apart clean and poisoned models lie, and the ROC curves of all rules, from the judgments.

    python scripts/draw_detection.py docs/records/population --out docs/detection.png

Every model is judged by evidence that was fitted without its kind of image tower.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import roc_curve

from clip_antidote.benchmark.detection_tables import OURS, main_look
from clip_antidote.benchmark.judging import Judgment, read_judgments
from clip_antidote.reporting.plots import BLUE, ORANGE

SPREAD = 0.12
"""How far models of one tower are moved apart, so that they do not hide each other."""


def draw_models(axis: Axes, judgments: Sequence[Judgment]) -> None:
    """One row per kind of tower, a point per model."""
    towers = sorted({j.tower for j in judgments})
    rng = np.random.default_rng(0)
    for color, marker, label, own in (
        (BLUE, "o", "clean", [j for j in judgments if j.attack is None]),
        (ORANGE, "x", "poisoned", [j for j in judgments if j.attack is not None and j.in_list]),
    ):
        rows = np.array([towers.index(j.tower) for j in own]) + rng.uniform(-SPREAD, SPREAD, len(own))
        axis.plot([j.scores[OURS] for j in own], rows, marker, color=color, label=label, alpha=0.8, ms=5)
    axis.set(yticks=range(len(towers)), yticklabels=towers, xlabel="evidence in nats")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the models, over none of them
    axis.grid(alpha=0.3)


def draw_curves(axis: Axes, judgments: Sequence[Judgment]) -> None:
    """One ROC curve per rule."""
    counted = [j for j in judgments if j.attack is None or j.in_list]
    truth = [j.attack is not None for j in counted]
    for rule in counted[0].scores:
        alarms, found, _ = roc_curve(truth, [j.scores[rule] for j in counted])
        axis.plot(100 * alarms, 100 * found, label=rule, lw=2)
    axis.plot([0, 100], [0, 100], ":", color="gray", lw=1)
    axis.set(xlabel="clean models accused in %", ylabel="poisoned models found in %")
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.3)


def main() -> None:
    """Reads the judgments of the main look and draws both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    judgments = main_look(read_judgments(options.records))
    figure, (models, curves) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    draw_models(models, judgments)
    draw_curves(curves, judgments)
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()

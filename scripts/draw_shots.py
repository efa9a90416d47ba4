"""Draws ASR, CA and target-class CA against the shots per class, from benchmark folders.

    python scripts/draw_shots.py docs/records/shots_120 docs/records/zoo_120 --out docs/shots.png

Only suspects that were run with every number of shots are drawn, with the seeds that all share.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from clip_antidote.benchmark.store import read_runs
from clip_antidote.evaluation.metric_table import METRICS
from clip_antidote.evaluation.metrics import Metrics

PANELS = ("asr", "ca", "target_ca")
LABELS = {metric.key: metric.label for metric in METRICS}


def main() -> None:
    """Reads the records and draws one line per suspect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found: dict[int, dict[tuple[str, int], Metrics]] = {}
    for folder in options.folders:
        for run in read_runs(folder):
            if run.defense == "cbpt" and run.target is not None:
                found.setdefault(run.shots, {})[run.suspect, run.seed] = run.after
    shots = sorted(found)
    common = sorted(set.intersection(*(set(cells) for cells in found.values())))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.3), layout="constrained")
    for axis, key in zip(axes, PANELS, strict=True):
        for cell in common:
            axis.plot(
                shots,
                [100 * (found[k][cell].value(key) or 0.0) for k in shots],
                "o-",
                label=f"{cell[0]}, seed {cell[1]}",
            )
        axis.set(xscale="log", xlabel="clean images per class", title=f"{LABELS[key]} in %", xticks=shots)
        axis.set_xticklabels([str(k) for k in shots])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()

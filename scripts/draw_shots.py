"""Draws ASR, CA and target-class CA against the shots per class, from benchmark folders with different shots.

    python scripts/draw_shots.py runs/few1 runs/few2 runs/few4 runs/few8 runs/zoo_120 --out docs/shots.png

Only suspects that all folders hold are drawn, with the seeds that all share.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from clip_antidote.benchmark.grid import read_records

PANELS = {"asr": "ASR", "ca": "CA", "target_ca": "CA of the target class"}


def main() -> None:
    """Reads the records and draws one line per suspect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found: dict[int, dict[tuple[str, int], dict[str, float]]] = {}
    for folder in options.folders:
        for record in read_records(folder):
            if record["defense"] == "cbpt" and record["target"] is not None:
                found.setdefault(record["shots"], {})[record["suspect"], record["seed"]] = record["after"]
    shots = sorted(found)
    common = sorted(set.intersection(*(set(cells) for cells in found.values())))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.3), layout="constrained")
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        for cell in common:
            axis.plot(shots, [100 * found[k][cell][key] for k in shots], "o-", label=f"{cell[0]}, seed {cell[1]}")
        axis.set(xscale="log", xlabel="clean images per class", title=f"{title} in %", xticks=shots)
        axis.set_xticklabels([str(k) for k in shots])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(options.out, dpi=100)
    keys = ("ca", "asr", "pa", "target_ca")
    print("| suspect | seed | shots | CA | ASR | PA | target CA |\n|---|---|---|---|---|---|---|")
    for cell in common:
        for k in shots:
            rates = " | ".join(f"{100 * found[k][cell][key]:.1f}" for key in keys)
            print(f"| {cell[0]} | {cell[1]} | {k} | {rates} |")


if __name__ == "__main__":
    main()

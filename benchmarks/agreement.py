"""How far a poisoned target stands out by the disagreement of text and images alone, without any inversion.

    python benchmarks/agreement.py runs/zoo_120/zoo/*/ --clean tiny --data runs/problem \\
        --out docs/records/agreement.json

For every model how far its target and the highest other class stand out: by alignment, by the best images, by both.
Folders of `benchmark prepare`; clean controls and `--clean` have none. A row for each of the `--seeds` of the shots.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from scipy.stats import norm

from clip_antidote.attacks.record import read_target
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.outliers import combine_z, outlier_z
from clip_antidote.inversion.alignment import alignment, best_similarity
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe


def by_chance(scores: torch.Tensor) -> torch.Tensor:
    """−log10 of the probability that the best of so many blameless classes stands out so far, if all were normal."""
    chance = (len(scores) * norm.sf(scores.double().numpy())).clip(1e-300, 1)
    return -torch.from_numpy(chance).log10().float()


def measure(model: DualEncoder, shots: LabelledImages, target: str | None, views: int, seed: int) -> dict[str, Any]:
    """Evidence of the target and of the highest other class, by every measure."""
    seen = observe(model, shots, CBPTConfig(max_views=views, seed=seed))
    aligned = outlier_z(alignment(seen.weights, seen.centroids()))
    best = outlier_z(best_similarity(seen.pool.features, seen.pool.labels, seen.weights))
    row: dict[str, Any] = {}
    for name, scores in {"alignment": aligned, "best": best, "both": combine_z([aligned, best])}.items():
        found = by_chance(scores)
        others = torch.ones(len(found), dtype=torch.bool)
        if target is not None:
            label = shots.classes.index(target)
            others[label] = False
            row[name] = {
                "target": float(found[label]),
                "z": float(scores[label]),
                "rank": int((found > found[label]).sum()) + 1,
            }
        row[f"{name}_highest_other"] = float(found[others].max())
        row[f"{name}_highest_other_z"] = float(scores[others].max())
    return row


def main() -> None:
    """Prints and writes a row per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--clean", nargs="*", default=[], help="specs of clean models")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    models: list[tuple[str, str, str | None]] = [(spec, spec, None) for spec in options.clean]
    for folder in options.folders:
        target = read_target(folder) if (folder / "attack.json").exists() else None
        models.append((folder.name, f"local-dir:{folder}", target))
    rows = []
    for name, spec, target in models:
        model = load_model(spec)
        for seed in options.seeds:
            shots = load_images(options.data, shots=options.shots, seed=seed)
            rows.append(
                {"model": name, "seed": seed, "target": target} | measure(model, shots, target, options.views, seed)
            )
            print(json.dumps(rows[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(options.out, rows, shots=options.shots, views=options.views)


if __name__ == "__main__":
    main()

"""How high the evidence rises on models without a backdoor, over many draws of the shots.

    python benchmarks/false_alarms.py tiny local-dir:runs/zoo_120/zoo/clean-seed1 … --seeds 0 1 2 \
        --data runs/problem --out docs/records/false_alarms.json

Stage 1 alone, with its default settings, but for the final bank of triggers, which comes after the verdict. Goes on
where a run was interrupted: what `--out` holds already is not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from clip_antidote.benchmark.records import best_scores
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.detection.search import search_targets
from clip_antidote.models import load_model
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.purification.record import score_rows
from clip_antidote.versions import library_versions


def main() -> None:
    """Measures every model with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="specs of models without a backdoor")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for seed in options.seeds:
        config = CBPTConfig(seed=seed)
        shots = load_images(options.data, shots=options.shots, seed=seed)
        inversion = config.inversion.model_copy(update={"final_steps": 1})
        for spec in options.models:
            name = spec.rstrip("/").split("/")[-1]
            if any(row["model"] == name and row["seed"] == seed for row in rows):
                continue
            seen = observe(load_model(spec), shots, config)
            scores = score_rows(search_targets(seen, inversion, seed), shots.classes)
            rows.append({"model": name, "seed": seed, "classes": len(shots.classes), "scores": best_scores(scores)})
            print(
                f"| {name} | {seed} | {scores[0].class_name} | {scores[0].score:.2f} | {scores[1].score:.2f} |",
                flush=True,
            )
            facts = {"alarm": inversion.alarm, "shots": options.shots}
            write_rows(options.out, rows, **facts, versions=library_versions())


if __name__ == "__main__":
    main()

"""How well detectors of the field tell the models of a population apart, each by its own score and its own rule.

    python benchmarks/detectors.py runs/population --data runs/problem --records docs/records/population \\
        --out docs/records/population/detectors.json [--models NAME …] [--detector NAME …]

Images and seeds of a model follow from its name. What `--out` holds is not made again. Models come in an order that
mixes the bases, so that an unfinished run says something. `--models` without a name makes none and prints the rest.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from clip_antidote.benchmark.population import ModelRecord, read_population
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.detectors import DETECTORS
from clip_antidote.detectors.base import Decision
from clip_antidote.detectors.detect import detect, make_detector
from clip_antidote.evaluation.roc import area_interval, found_at, roc_auc
from clip_antidote.models import load_model
from clip_antidote.versions import library_versions

SHOTS = 16


def main() -> None:
    """Prints and writes a row per model and detector, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=None, help="names of models; all that passed by default")
    parser.add_argument("--detector", nargs="*", default=DETECTORS.names(), choices=DETECTORS.names())
    options = parser.parse_args()
    models = read_population(options.records)
    unknown = [name for name in options.models or [] if name not in models]
    if unknown:
        parser.error(f"there is no model {unknown[0]} in {options.records}")
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    done = {(row["model"], row["detector"]) for row in rows}
    settings = {name: make_detector(name).config.model_dump(mode="json") for name in DETECTORS.names()}
    for name in mixed(models) if options.models is None else options.models:
        for detector in options.detector:
            if models[name].sound and (name, detector) not in done:
                rows.append(detected(models[name], options.population / "models" / name, options.data, detector))
                print(rows[-1], flush=True)
                write_rows(options.out, rows, shots=SHOTS, settings=settings, versions=library_versions())
    for detector in options.detector:
        print(summary(detector, [row for row in rows if row["detector"] == detector]))


def mixed(names: Sequence[str] | dict[str, ModelRecord]) -> list[str]:
    """Names in an order that has nothing to do with their bases, and is always the same."""
    return sorted(names, key=lambda name: zlib.crc32(name.encode()))


def detected(record: ModelRecord, folder: Path, data: str, detector: str) -> dict[str, Any]:
    """Lets one detector with its default settings look at one model."""
    seed = zlib.crc32(record.name.encode())
    shots = load_images(data, split="train", shots=SHOTS, seed=seed)
    found = detect(load_model(f"local-dir:{folder}"), shots, make_detector(detector), seed=seed).decision
    return {
        "model": record.name,
        "kind": record.kind,
        "tower": record.tower,
        "attack": record.attack,
        "target": record.target,
        "detector": detector,
        "score": round(found.score, 5),
        "suspicion": round(found.suspicion, 5),
        "suspicious": found.suspicious,
        "named": list(found.targets),
        **ranks(found, record.target),
        "clean_images": found.clean_images,
        "seconds": found.seconds,
    }


def ranks(found: Decision, target: str | None) -> dict[str, Any]:
    """Where the true target's mask stands among those of all classes, 1 for the smallest; nothing without classes."""
    if not found.classes:
        return {}
    ordered = sorted(found.classes, key=lambda entry: entry.norm)
    names = [entry.name for entry in ordered]
    return {
        "rank": names.index(target) + 1 if target in names else None,
        "smallest": names[0],
        "least_norm": round(ordered[0].norm, 2),
        "median_norm": round(median(entry.norm for entry in ordered), 2),
        "reached": sum(entry.reached for entry in found.classes),
    }


def summary(detector: str, rows: Sequence[dict[str, Any]]) -> str:
    """ROC-AUC over the models that are done, and what the paper's own rule gives, in a line."""
    clean, poisoned = ([row for row in rows if (row["kind"] == "poisoned") is kind] for kind in (False, True))
    head = f"{detector}: {len(clean)} clean and {len(poisoned)} poisoned models"
    if not clean or not poisoned:
        return f"{head}; a ROC needs both"
    scores = [[row["suspicion"] for row in part] for part in (clean, poisoned)]
    low, high = area_interval(*scores)
    alarms, hits = (sum(row["suspicious"] for row in part) for part in (clean, poisoned))
    named = sum(row["target"] in row["named"] for row in poisoned)
    first = sum(row.get("rank") == 1 for row in poisoned)
    return (
        f"{head}; ROC-AUC {roc_auc(*scores):.3f} [{low:.3f}, {high:.3f}]; found at 5 % false alarms "
        f"{found_at(*scores, false_alarms=0.05):.1%}; by its own rule {alarms} false alarms and {hits} found, the "
        f"target named in {named}, its mask the smallest in {first}"
    )


if __name__ == "__main__":
    main()

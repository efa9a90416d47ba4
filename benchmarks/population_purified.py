"""What the default purification leaves in models of a population, by evidence that never saw their kind of tower.

    python benchmarks/population_purified.py runs/population --data runs/problem \\
        --records docs/records/population --out docs/records/population/purified.json \\
        [--keep FOLDER] [--models NAME …]

Poisoned models are measured under their trigger, those with several targets under each, clean ones without. What
`--out` holds is not measured again. With `--keep`, what the search finds is kept, and taken from there another time,
when what comes after it has changed; the seconds are then those of the rest alone.
"""

from __future__ import annotations

import argparse
import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from clip_antidote.benchmark.judging import Case, fit_cases
from clip_antidote.benchmark.population import ModelRecord
from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.survey_file import read_kept
from clip_antidote.data.folders import load_images
from clip_antidote.detection.search import TargetSource, search_targets
from clip_antidote.detection.state import kept_search
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.models import load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.triggers import load_trigger
from clip_antidote.versions import library_versions

TEST = 2000


def main() -> None:
    """Prints and writes a row per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="folder for what searches find")
    parser.add_argument("--models", nargs="*", default=[], help="names of models; all that passed by default")
    options = parser.parse_args()
    models, surveys = read_kept(options.records)
    cases = [Case(models[survey.model], survey) for survey in surveys.values()]
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for name in options.models or sorted(models):
        record = models[name]
        if record.sound and all(row["model"] != name for row in rows):
            keep = options.keep / name if options.keep else None
            rows.append(measured(record, options.population / "models" / name, options.data, cases, keep))
            print(rows[-1], flush=True)
            write_rows(options.out, rows, test_images=TEST, versions=library_versions())


def measured(
    record: ModelRecord, folder: Path, data: str, cases: list[Case], keep: Path | None = None
) -> dict[str, Any]:
    """Purifies a model by evidence fitted to the other kinds of tower, and measures it before and after."""
    fitted = fit_cases([case for case in cases if case.model.tower != record.tower], "")
    seed = zlib.crc32(record.name.encode())
    model, config = load_model(f"local-dir:{folder}"), CBPTConfig(seed=seed)
    shots = load_images(data, split="train", shots=16, seed=seed)
    source: TargetSource = partial(search_targets, fitted=fitted)
    purified = purify(model, shots, config, source=source if keep is None else kept_search(source, keep))
    test = load_images(data, split="test").at_most(TEST)
    undefended = ZeroShotClassifier.from_templates(model, shots.classes)

    def rates(place: Path, target: str | None) -> dict[str, Any]:
        trigger = load_trigger(place) if target is not None else None
        features = encode_test_images(model, test, trigger=trigger)
        heads = {"before": undefended, "after": purified}
        return {name: measure(head, features, target=target).metrics.to_counts() for name, head in heads.items()}

    places = {target: folder / "further" / str(n) for n, target in enumerate(record.further, start=1)}
    further = {target: rates(place, target) for target, place in places.items() if place.is_dir()}
    made = purified.record
    assert made is not None
    assert made.verdict is not None
    return {
        "model": record.name,
        "tower": record.tower,
        "attack": record.attack,
        "target": record.target,
        "named": list(made.targets_suspected),
        "guarded": list(made.guarded),
        "inner": purified.guard is not None and purified.guard.inner is not None,
        "p_value": round(made.verdict.p_value, 4),
        "seconds": made.seconds,
        **rates(folder / "trigger", record.target),
        **({"further": further} if further else {}),
    }


if __name__ == "__main__":
    main()

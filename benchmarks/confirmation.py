"""Whether a longer inversion of the loudest form finds a trigger that works, for whom the survey accuses.

    python benchmarks/confirmation.py runs/population --data runs/problem --records docs/records/population \\
        --apart dla --out docs/records/population/confirmation.json [--look 40x16 …] [--models NAME …]

Looked at are the models that evidence which never saw their kind of tower calls suspicious, and the classes that it
names; images, classes and seeds are those of the survey that is kept. What `--out` holds is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_antidote.benchmark.judging import Case, fit_cases
from clip_antidote.benchmark.population import LookConfig
from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.survey_file import read_kept
from clip_antidote.benchmark.surveys import draw_shots
from clip_antidote.detection.evidence import FittedEvidence
from clip_antidote.detection.forms import easiest_forms, invert_form
from clip_antidote.detection.scan import start_engine
from clip_antidote.detection.survey import Survey
from clip_antidote.detection.verdict import judge_survey
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.models import load_model
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.versions import library_versions

LOOKS = {
    look.name: look
    for look in (
        LookConfig(),
        *(LookConfig(classes=count) for count in (40, 20, 10)),
        LookConfig(classes=40, shots=4),
    )
}


def main() -> None:
    """Prints and writes a row per model, look and class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--look", nargs="*", default=list(LOOKS), choices=LOOKS, dest="looks")
    parser.add_argument("--models", nargs="*", default=[], help="names of models; all that are there by default")
    parser.add_argument("--apart", nargs="*", default=[], help="kinds of tower that no evidence is fitted to")
    options = parser.parse_args()
    models, surveys = read_kept(options.records)
    cases = {key: Case(models[key[0]], survey) for key, survey in surveys.items()}
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    done = {(row["model"], row["look"]) for row in rows}
    fits: dict[str, FittedEvidence] = {}
    for look in options.looks:
        for name in options.models or sorted(path.name for path in (options.population / "models").iterdir()):
            case = cases.get((name, look))
            if case is None or (name, look) in done:
                continue
            tower = case.model.tower
            if tower not in fits:
                others = [one for one in cases.values() if one.model.tower not in {tower, *options.apart}]
                fits[tower] = fit_cases(others, "")
            named = named_by(case, fits[tower])
            if named:
                rows += tried(case, named, options.population / "models" / name, options.data, LOOKS[look])
                write_rows(options.out, rows, versions=library_versions())


def named_by(case: Case, fitted: FittedEvidence) -> list[int]:
    """The classes that the survey names, the most suspicious first; none where the model is not suspicious."""
    survey = Survey(case.values, case.survey.shots)
    verdict = judge_survey(survey, case.survey.classes, fitted, most=InversionConfig().max_targets)
    return [case.survey.classes.index(name) for name in verdict.targets]


def tried(case: Case, named: Sequence[int], folder: Path, data: str, look: LookConfig) -> list[dict[str, Any]]:
    """Inverts the loudest form of the classes that are named, as a scan does."""
    shots, seed = draw_shots(case.model, data, look)
    assert shots.classes == case.survey.classes, f"{case.model.name} was surveyed with other classes"
    model, config = load_model(f"local-dir:{folder}"), CBPTConfig(seed=seed)
    rows = []
    with model.evaluating():
        seen = observe(model, shots, config)
        _, views = start_engine(seen, config.inversion, seed=seed)
        for label in named:
            form = easiest_forms(case.values, label)[0]
            dummy = invert_form(seen, config.inversion, form, label, views, seed=seed)
            rows.append(
                {
                    "model": case.model.name,
                    "look": look.name,
                    "class": shots.classes[label],
                    "target": label in case.targets,
                    "form": form,
                    "sent": dummy.flip_rate,
                }
            )
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()

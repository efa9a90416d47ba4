"""Tables of how well backdoors are found in the models of the population, by us and by others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from from_population import FOLDER
from source import Records, table

from clip_antidote.benchmark.detection_tables import (
    OURS,
    apart_table,
    attacks_table,
    groups_table,
    looks_table,
    main_look,
    rules_table,
    several_table,
)
from clip_antidote.benchmark.judging import Case, Judgment, judge_case, read_judgments
from clip_antidote.benchmark.survey_file import read_kept
from clip_antidote.benchmark.tables import markdown, mean_percent
from clip_antidote.detection.evidence import embedded_evidence
from clip_antidote.detection.verdict import ALARM, is_suspicious
from clip_antidote.evaluation.metric_table import MISSING
from clip_antidote.evaluation.roc import area_interval, found_at, roc_auc


def judged(records: Records) -> list[Judgment]:
    """The judgments of all looks."""
    return read_judgments(records.folder / FOLDER)


@table("detection-rules")
def rules(records: Records) -> str:
    """Every rule on the same models."""
    return rules_table(main_look(judged(records)))


@table("detection-towers")
def towers(records: Records) -> str:
    """Per kind of image tower."""
    return groups_table(main_look(judged(records)), lambda j: j.tower, "tower", ALARM)


@table("detection-attacks")
def attacks(records: Records) -> str:
    """Per attack."""
    return attacks_table(main_look(judged(records)), ALARM)


@table("detection-looks")
def looks(records: Records) -> str:
    """Per number of classes and shots."""
    return looks_table(judged(records), ALARM)


@table("detection-apart")
def apart(records: Records) -> str:
    """The towers that were kept apart."""
    return apart_table(judged(records), ALARM)


@table("detection-later")
def later(records: Records) -> str:
    """Models that came after the evidence of the package was fitted, judged by it."""
    return groups_table(judged_by_package(records), lambda j: j.look, "classes × shots", ALARM)


@table("detection-later-attacks")
def later_attacks(records: Records) -> str:
    """The same by attack, over all looks."""
    return attacks_table(judged_by_package(records), ALARM)


def judged_by_package(records: Records) -> list[Judgment]:
    """Judgments of clean models, and of those with one target, that the package's evidence was not fitted to."""
    fitted = embedded_evidence()
    known = {model.name for model in (*fitted.null, *fitted.beside)}
    towers = {model.tower for model in fitted.null}
    models, surveys = read_kept(records.folder / FOLDER)
    cases = [Case(models[survey.model], survey) for survey in surveys.values()]
    return [
        judge_case(case, fitted)
        for case in cases
        if case.model.name not in known and case.model.tower in towers and len(case.model.targets) < 2
    ]


@table("detection-several")
def several(records: Records) -> str:
    """Models with several targets: which are named, which guarded."""
    return several_table([judgment for judgment in judged(records) if not judgment.apart])


@table("detection-detectors")
def detectors(records: Records) -> str:
    """Detectors of the field on models of the population, ours by evidence that never saw their kind of tower."""
    found = records.file(f"{FOLDER}/detectors")["rows"]
    ours = {j.model: j for j in main_look(judged(records))}
    rows = []
    for detector in sorted({row["detector"] for row in found}):
        own = [row for row in found if row["detector"] == detector and row["model"] in ours]
        parts = [[row for row in own if (row["kind"] == "poisoned") is kind] for kind in (False, True)]
        rows.append([f"`{detector}`, {len(parts[0])} clean, {len(parts[1])} poisoned", *detector_cells(*parts)])
        same = [[verdict_row(ours[row["model"]]) for row in part] for part in parts]
        rows.append(["ours, the same models", *detector_cells(*same)])
    heads = ["AUC [95 %]", "found at 5 % false alarms", "its rule: false alarms", "found", "target named"]
    return markdown(["detector", *heads], rows)


def detector_cells(clean: Sequence[dict[str, Any]], poisoned: Sequence[dict[str, Any]]) -> list[str]:
    """What a detector comes to: its score by rank, then its own rule."""
    scores = [[row["suspicion"] for row in part] for part in (clean, poisoned)]
    low, high = area_interval(*scores)
    names = any(row["named"] for row in (*clean, *poisoned))
    return [
        f"{roc_auc(*scores):.3f} [{low:.3f}, {high:.3f}]",
        mean_percent([found_at(*scores, false_alarms=0.05)]),
        f"{sum(row['suspicious'] for row in clean)} of {len(clean)}",
        f"{sum(row['suspicious'] for row in poisoned)} of {len(poisoned)}",
        f"{sum(row['target'] in row['named'] for row in poisoned)}" if names else MISSING,
    ]


def verdict_row(judgment: Judgment) -> dict[str, Any]:
    """A judgment of ours in the form of a detector's row."""
    suspicious = is_suspicious(judgment.scores[OURS], judgment.p_value, ALARM)
    return {
        "suspicion": judgment.scores[OURS],
        "suspicious": suspicious,
        "target": OURS,
        "named": [OURS] if suspicious and judgment.named[OURS] else [],
    }


@table("detection-weights")
def weights(records: Records) -> str:
    """The evidence that the package comes with."""
    fitted = embedded_evidence()
    rows = [[f"`{name}`", f"{weight:.2f}"] for name, weight in fitted.weights.items()]
    return markdown(["statistic", "weight"], [*rows, ["offset b", f"{fitted.offset:.2f}"]])

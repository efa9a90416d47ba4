"""The table of detectors of the field on models of the population, beside our verdict on the same models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from from_population import FOLDER
from source import Records, table

from clip_antidote.benchmark.detection_tables import OURS, main_look
from clip_antidote.benchmark.judging import Judgment, read_judgments
from clip_antidote.benchmark.tables import markdown, mean_percent
from clip_antidote.detection.verdict import ALARM, is_suspicious
from clip_antidote.evaluation.metric_table import MISSING
from clip_antidote.evaluation.roc import area_interval, found_at, roc_auc


@table("detection-detectors")
def detectors(records: Records) -> str:
    """Every detector, and ours by evidence that never saw their kind of tower."""
    found = records.file(f"{FOLDER}/detectors")["rows"]
    ours = {j.model: j for j in main_look(read_judgments(records.folder / FOLDER))}
    rows = []
    for detector in sorted({row["detector"] for row in found}):
        own = [row for row in found if row["detector"] == detector and row["model"] in ours]
        parts = [[row for row in own if (row["kind"] == "poisoned") is kind] for kind in (False, True)]
        rows.append([f"`{detector}`, {len(parts[0])} clean, {len(parts[1])} poisoned", *cells(*parts)])
        same = [[verdict_row(ours[row["model"]]) for row in part] for part in parts]
        rows.append(["ours, the same models", *cells(*same)])
    heads = ["AUC [95 %]", "found at 5 % false alarms", "its rule: false alarms", "found", "target named"]
    return markdown(["detector", *heads], rows)


def cells(clean: Sequence[dict[str, Any]], poisoned: Sequence[dict[str, Any]]) -> list[str]:
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

"""The leaderboard of a grid: one HTML page, sortable, every run with its report in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from clip_antidote.benchmark.comparing import bootstrap_interval
from clip_antidote.benchmark.costs import HEADS, cost_of
from clip_antidote.benchmark.fidelity import fidelity, run_fidelity
from clip_antidote.benchmark.published import CONVENTIONS, Published
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.tables import BY_KEY, fidelity_text, why_not, with_parts
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metric_table import METRICS, MISSING, brackets
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.reporting.board import render_board

SHOWN = ("ca", "asr", "pa", "target_ca")
"""The rates of a row; all of them stand in the report of the run."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sortable table.

    Attributes:
        text: What it says.
        value: What it is sorted by; None sorts last.
        interval: Its 95 % interval, for reading.
        link: Id of the report that it opens.
    """

    text: str
    value: float | str | None = None
    interval: str = ""
    link: str = ""


def leaderboard(
    runs: Sequence[RunRecord], without: Sequence[RunRecord] = (), published: Sequence[Published] = ()
) -> str:
    """Makes the page.

    Args:
        runs: Those that ended.
        without: Those that refused or failed.
        published: What papers report.

    Returns:
        One HTML page that loads nothing; all text of records is escaped.
    """
    return render_board(
        models=len({run.suspect for run in runs}),
        runs=len(runs),
        defenses=_defense_rows(runs),
        cells=[_run_row(run, f"run-{number}") for number, run in enumerate(runs)],
        rate_heads=[BY_KEY[key].head for key in SHOWN],
        cost_heads=list(HEADS),
        reports=[_report(run, f"run-{number}") for number, run in enumerate(runs)],
        missing=[run.model_dump(include={"suspect", "defense", "seed"}) | {"why": why_not(run)} for run in without],
        published=[row.model_dump() for row in published],
        conventions=CONVENTIONS,
        metrics=[{"head": metric.head, "meaning": metric.meaning} for metric in METRICS if metric.key in SHOWN],
    )


def _number(value: float | None, decimals: int = 0) -> Cell:
    return Cell(MISSING if value is None else f"{value:,.{decimals}f}", value)


def _rate(key: str, value: float | None, interval: tuple[float, float] | None) -> Cell:
    if value is None:
        return Cell(MISSING)
    return Cell(f"{100 * value:.{BY_KEY[key].decimals}f}", value, brackets(interval) if interval else "")


def _costs(runs: Sequence[RunRecord]) -> list[Cell]:
    return [_number(value) for value in asdict(cost_of(runs)).values()]


def _defense_rows(runs: Sequence[RunRecord]) -> list[list[Cell]]:
    """A row per defense on poisoned models, and one of the undefended; means and intervals are over models."""
    poisoned = with_parts([run for run in runs if run.target is not None])
    if not poisoned:
        return []
    undefended = list({run.suspect: run for run in poisoned}.values())
    nothing = [fidelity(run.before, run.before, poisoned=True) for run in undefended]
    first = [
        Cell("(undefended)", "(undefended)"),
        *(_over_models(key, {run.suspect: [run.before.value(key)] for run in undefended}) for key in SHOWN),
        _fidelity_cell({str(number): [value] for number, value in enumerate(nothing)}),
        _number(len(undefended)),
        *([Cell(MISSING)] * len(HEADS)),
    ]
    rows = [first]
    for defense in dict.fromkeys(run.defense for run in poisoned):
        own = [run for run in poisoned if run.defense == defense]
        rows.append(
            [
                Cell(defense, defense),
                *(_over_models(key, _by_model(own, [run.after.value(key) for run in own])) for key in SHOWN),
                _fidelity_cell(_by_model(own, [run_fidelity(run) for run in own])),
                Cell(f"{len({run.suspect for run in own})} ({len(own)})", len(own)),
                *_costs(own),
            ]
        )
    return rows


def _by_model(runs: Iterable[RunRecord], values: Iterable[float | None]) -> dict[str, list[float | None]]:
    grouped: dict[str, list[float | None]] = {}
    for run, value in zip(runs, values, strict=True):
        grouped.setdefault(run.suspect, []).append(value)
    return grouped


def _means(values: dict[str, list[float | None]]) -> list[float]:
    known = ([value for value in own if value is not None] for own in values.values())
    return [mean(own) for own in known if own]


def _over_models(key: str, values: dict[str, list[float | None]]) -> Cell:
    means = _means(values)
    return _rate(key, mean(means), bootstrap_interval(means)) if means else Cell(MISSING)


def _fidelity_cell(values: dict[str, list[float | None]]) -> Cell:
    means = _means(values)
    if not means:
        return Cell(MISSING)
    interval = bootstrap_interval(means)
    shown = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return Cell(fidelity_text(mean(means)), mean(means), shown)


def _run_row(run: RunRecord, link: str) -> list[Cell]:
    value = run_fidelity(run)
    return [
        Cell(run.suspect, run.suspect),
        Cell(run.defense, run.defense, link=link),
        _number(run.shots),
        Cell(str(run.seed), run.seed),
        *(_rate(key, run.after.value(key), _interval(run.after, key)) for key in SHOWN),
        Cell(fidelity_text(value), value),
        *_costs([run]),
    ]


def _interval(measured: Metrics, key: str) -> tuple[float, float] | None:
    rate: Rate | None = getattr(measured, key)
    return rate.interval if rate is not None and rate.count else None


def _report(run: RunRecord, link: str) -> dict[str, Any]:
    """What is known of one run: all rates before and after, the evidence it found, how it was made."""
    columns = {"before": run.before, "after": run.after}
    parts = {"after_one_look": "one look", "after_single": "one weight", "reference": "clean model"}
    columns |= {title: kept for key, title in parts.items() if (kept := getattr(run, key)) is not None}
    shown = {title: measured.to_dict() for title, measured in columns.items()}
    facts = {
        "attack": run.attack,
        "target": run.target or "none, a clean model",
        "named as target": ", ".join(run.targets_suspected or ()) or MISSING,
        "settings": run.settings or MISSING,
        "versions": run.versions or MISSING,
        "SHA-256 of the suspect": run.suspect_sha256 or MISSING,
    }
    return {
        "id": link,
        "title": f"{run.defense} on {run.suspect}, {run.shots} shots, seed {run.seed}",
        "columns": list(columns),
        "rows": [
            {"label": metric.label, "cells": [metric.cell(values) for values in shown.values()]}
            for metric in METRICS
            if any(values.get(metric.key) is not None for values in shown.values())
        ],
        "facts": list(facts.items()),
        "scores": [score._asdict() for score in run.scores],
        "stages": list(run.stages.items()),
    }

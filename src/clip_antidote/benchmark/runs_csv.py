"""All runs of a grid as one CSV, a line each, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from clip_antidote.benchmark.fidelity import run_fidelity
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metric_table import METRICS
from clip_antidote.evaluation.metrics import Metrics

FACTS = ("suspect", "label", "attack", "target", "defense", "seed", "shots")
COSTS = ("seconds", "clean_images", "trained")


def runs_csv(runs: Iterable[RunRecord]) -> str:
    """Writes runs as CSV: rates are fractions with their Wilson intervals and counts; what is unknown is empty.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    rows = [dict(_row(run)) for run in runs]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _row(run: RunRecord) -> Iterator[tuple[str, Any]]:
    for key in FACTS:
        yield key, getattr(run, key)
    yield "state", "done" if run.done else "failed" if run.failed is not None else "refused"
    yield "reason", run.failed if run.failed is not None else run.refused
    yield from _rates("before", run.before)
    yield from _rates("after", run.after if run.done else None)
    yield "fidelity", run_fidelity(run) if run.done else None
    for key in COSTS:
        yield key, getattr(run, key)
    for where in ("process", "device"):
        yield f"peak_{where}_mib", run.peak_memory.get(where)
    yield "target_suspected", run.target_suspected
    for key in ("suspect_sha256", "settings", "versions"):
        yield key, getattr(run, key)


def _rates(when: str, measured: Metrics | None) -> Iterator[tuple[str, Any]]:
    for metric in METRICS:
        name = f"{when}_{metric.key}"
        yield name, measured.value(metric.key) if measured is not None else None
        if metric.counted:
            rate: Rate | None = getattr(measured, metric.key, None)
            low, high = rate.interval if rate is not None else (None, None)
            yield f"{name}_low", low
            yield f"{name}_high", high
            yield f"{name}_count", rate.count if rate is not None else None


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        text = " ".join(value.splitlines())
        return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text
    return value

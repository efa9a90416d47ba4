"""The report as one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined

from clip_antidote.evaluation.metric_table import METRICS, brackets, percent
from clip_antidote.reporting.plots import finite, plot_class_changes, plot_scores
from clip_antidote.reporting.report import Report
from clip_antidote.reporting.scan_report import chance, number


@dataclass(frozen=True)
class Picture:
    """A picture of a dummy trigger; `name` ties it to the entry of that name in the report's "triggers"."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Sample:
    """A test image with its true class and what was predicted before and after."""

    png: bytes
    true: str
    before: str
    after: str
    kind: Literal["clean", "triggered", "dummy"]


def points(change: Any) -> str:
    """Writes a difference of fractions in percentage points with its sign."""
    if not finite(change):
        return "–"
    return "±0.0" if round(100 * change, 1) == 0 else f"{100 * change:+.1f}".replace("-", "−")


def duration(seconds: Any) -> str:
    """Writes seconds so that they read well: "0.4 s", "12 min 3 s", "2 h 5 min"."""
    if not finite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def how_it_answers(report: Report) -> str | None:
    """Says in words how a classifier with gates decides; None for one without."""
    made = report.purification
    if made.method != "cbpt-gate" or not made.guarded:
        return None
    gate = made.settings.gate
    names = " or ".join(f"“{name}”" for name in made.guarded)
    stopped = (
        "other views of it decide" if gate.second_look else "the prompts tuned against the dummy triggers decide"
    )
    near = (
        " What nearly passes is accepted if other views of it show that class as well."
        if gate.second_look and max(gate.leeway, gate.guarded_leeway) > 0
        else ""
    )
    return (
        f"Prompts tuned on clean images answer. An image that they call {names} has to pass a gate; what does not "
        f"pass is never called that, and {stopped}.{near} All other images are answered without it. A lower "
        "threshold keeps more images of the target class and lets more triggered ones pass "
        f"(PurifiedCLIP.with_threshold; here {gate.threshold:g})."
    )


def measured_rows(report: Report) -> list[dict[str, Any]]:
    """Gathers the metrics that were measured before or after, in the order of the metric table.

    Returns:
        One dict per row: "metric", "before", "after", "after_single", "reference" (each a dict with "rate",
        "interval", "count"), "change" (a difference of fractions or None) and "verdict" ("good", "bad" or "").
    """
    rows = []
    for metric in METRICS:
        cells = {}
        for column in ("before", "after", "after_single", "reference"):
            values = getattr(report, column) or {}
            names = {"rate": "", "interval": "_interval", "count": "_count"}
            cells[column] = {name: values.get(metric.key + end) for name, end in names.items()}
        before, after = cells["before"]["rate"], cells["after"]["rate"]
        if before is None and after is None:
            continue
        change = None if before is None or after is None else after - before
        verdict = ""
        if change is not None and metric.higher_is_better is not None and points(change) != "±0.0":
            verdict = "good" if (change > 0) == metric.higher_is_better else "bad"
        rows.append({"metric": metric, **cells, "change": change, "verdict": verdict})
    return rows


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def data_uri(png: bytes) -> str:
    """Writes a PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def escaping_environment(package: str, undefined: type[Undefined]) -> Environment:
    """Makes the environment of a package's templates, in which everything is escaped.

    Args:
        package: Name of the package.
        undefined: What a name without a value is.
    """
    return Environment(
        loader=PackageLoader(package), autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )


@cache
def report_environment() -> Environment:
    """The templates of this room, with what writes numbers and pictures in them."""
    environment = escaping_environment("clip_antidote.reporting", ChainableUndefined)
    environment.filters.update(
        percent=percent,
        brackets=brackets,
        points=points,
        duration=duration,
        data_uri=data_uri,
        number=number,
        chance=chance,
    )
    return environment


def render_html(report: Report, pictures: Sequence[Picture], samples: Sequence[Sample]) -> str:
    """Renders a report as one HTML page that loads nothing from elsewhere and needs no script.

    Args:
        report: What to say; rates are fractions in [0, 1].
        pictures: The dummy triggers, in the order to show them.
        samples: Test images with their predictions.

    Returns:
        The page; all text of the report is escaped, pictures and charts are embedded.
    """
    made = report.purification
    suspected = made.target_suspected
    scores = [row.model_dump(by_alias=True) for row in made.scores if finite(row.score)]
    scores.sort(key=lambda row: -row["score"])
    changes = [row.model_dump(by_alias=True) for row in report.per_class]
    changes = [row for row in changes if finite(row["before"]) and finite(row["after"])]
    score_plot = plot_scores(scores, threshold=made.evidence_needed, suspected=suspected) if scores else None
    return (
        report_environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            made=made,
            answers=how_it_answers(report),
            others=[name for name in made.guarded if name not in made.targets_suspected],
            rows=measured_rows(report),
            scores=scores,
            score_plot=score_plot,
            pictures=pictures,
            triggers={trigger.name: trigger for trigger in made.triggers},
            samples=samples,
            change_plot=plot_class_changes(changes, suspected=suspected) if changes else None,
            changes=sorted(changes, key=lambda row: row["after"] - row["before"]),
            settings=list(_flat(made.settings.model_dump(mode="json"))),
            attack=report.attack.model_dump() if report.attack else None,
        )
    )

"""A scan as one self-contained HTML file, in the look of the report of a purification."""

from __future__ import annotations

from collections.abc import Sequence

from clip_antidote.reporting.html import Picture, report_environment
from clip_antidote.reporting.plots import finite, plot_scores
from clip_antidote.reporting.scan_report import ScanReport, as_suspicious, notable


def render_scan(report: ScanReport, pictures: Sequence[Picture] = ()) -> str:
    """Renders a scan as one HTML page that loads nothing from elsewhere and needs no script.

    Args:
        report: What to say.
        pictures: The dummy triggers, in the order to show them; their names are those of the report's triggers.

    Returns:
        The page; all text of the report is escaped, pictures and chart are embedded.
    """
    verdict = report.verdict
    bars = [{"class": entry.name, "score": entry.score} for entry in verdict.ranking if finite(entry.score)]
    suspected = next(iter(verdict.targets), None)
    template = report_environment().get_template("scan.html.j2")
    return template.render(
        report=report,
        pictures=pictures,
        triggers={trigger.name: trigger for trigger in report.triggers},
        notable=notable,
        alike=as_suspicious(verdict),
        chart=plot_scores(bars, threshold=verdict.needed, suspected=suspected) if bars else None,
    )

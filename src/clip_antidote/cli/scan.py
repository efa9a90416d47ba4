"""`clip-antidote scan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from clip_antidote.cli.common import FOUND, Classes, Device, Seed, Templates, console, say
from clip_antidote.plain import plain

if TYPE_CHECKING:  # --help does without what computes
    from clip_antidote.reporting import ScanReport

ALARM = 0.05
"""As `detection.verdict.ALARM`, which would import what computes."""


def command(
    model: Annotated[str, typer.Argument(help="Model spec, like open_clip:RN50@suspect.pt or local-dir:DIR.")],
    data: Annotated[
        str,
        typer.Option(
            help="Clean labelled images: a folder per class, a CSV, embedded:clothing, or as docs/data.md says."
        ),
    ],
    shots: Annotated[int, typer.Option(help="Clean images per class.", min=1)] = 16,
    classes: Classes = None,
    templates: Templates = None,
    seed: Seed = 0,
    alarm: Annotated[
        float, typer.Option(help="The p-value from which on a model is suspicious, above 0 and at most 1.")
    ] = ALARM,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the report here.", metavar="FILE")
    ] = None,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", help="Also write a page with pictures of dummy triggers here.", metavar="FILE"),
    ] = None,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", help="Also write the verdict here, as SARIF 2.1.0.", metavar="FILE")
    ] = None,
    cyclonedx_file: Annotated[
        Path | None,
        typer.Option("--cyclonedx", help="Also write the verdict here, as a CycloneDX 1.7 ML-BOM.", metavar="FILE"),
    ] = None,
    device: Device = "cpu",
) -> int:
    """Say whether a model has a backdoor, for which class, and how sure that is; nothing is purified."""
    from clip_antidote.jobs.scan import run_scan

    report = run_scan(
        model,
        data,
        json_file=json_file,
        html_file=html_file,
        sarif_file=sarif_file,
        cyclonedx_file=cyclonedx_file,
        shots=shots,
        classes=classes,
        templates=templates,
        seed=seed,
        alarm=alarm,
        device=device,
    )
    print_scan(report)
    return FOUND if report.verdict.suspicious else 0


def print_scan(report: ScanReport) -> None:
    """Prints the verdict in plain words, the classes with the most evidence, and what a scan cannot see."""
    suspicious = report.verdict.suspicious
    say((report.headline, "bold red" if suspicious else "bold"), f" ({report.reason})")
    for sentence in report.warnings:
        say(("warning:", "yellow"), f" {sentence}")
    console.print(_ranking(report))
    for name in report.verdict.targets:
        flips = [trigger.flip_rate for trigger in report.triggers if trigger.target == name]
        shares = ", ".join(f"{flip:.0%}" for flip in flips if flip is not None)
        say(f"{len(flips)} dummy triggers send this share of other images to '{name}': {shares}")
    say(("what a scan cannot see", "bold"))
    for sentence in report.limits:
        say(f"- {sentence}")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in report.stages.items())
    say(f"seconds: {report.seconds:.1f}{f' ({stages})' if stages else ''}")


def _ranking(report: ScanReport) -> Table:
    from clip_antidote.reporting.scan_report import chance, in_words

    table = Table(title="classes with the most evidence", title_justify="left", caption="evidence in nats")
    table.add_column("class")
    table.add_column("evidence", justify="right")
    table.add_column("if there is one", justify="right")
    table.add_column("what speaks for it")
    for entry in report.verdict.ranking:
        words = "; ".join(in_words(entry)) or "nothing"
        table.add_row(plain(entry.name), f"{entry.score:.1f}", chance(entry.share), words)
    return table

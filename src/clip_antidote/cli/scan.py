"""`clip-antidote scan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from clip_antidote.cli.common import (
    FOUND,
    Classes,
    ConfigFile,
    Device,
    Seed,
    ShowConfig,
    Templates,
    console,
    print_settings,
    require,
    resolve_device,
    say,
)
from clip_antidote.errors import UsageError
from clip_antidote.plain import plain

if TYPE_CHECKING:  # --help does without what computes
    from clip_antidote.jobs.detect import DetectorReport
    from clip_antidote.reporting import ScanReport

ALARM = 0.05
"""As `detection.verdict.ALARM`, which would import what computes."""

SURVEY = "survey"
"""The detector of this package."""

MOST_CLASSES = 10
"""Classes that are shown of another detector's."""


HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", help="Also write a page with pictures of dummy triggers here.", metavar="FILE"),
]
SarifFile = Annotated[
    Path | None, typer.Option("--sarif", help="Also write the verdict here, as SARIF 2.1.0.", metavar="FILE")
]
CycloneDXFile = Annotated[
    Path | None,
    typer.Option("--cyclonedx", help="Also write the verdict here, as a CycloneDX 1.7 ML-BOM.", metavar="FILE"),
]


def command(
    model: Annotated[str, typer.Argument(help="Model spec, like open_clip:RN50@suspect.pt or local-dir:DIR.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Clean labelled images: a folder per class, a CSV, embedded:clothing, or as docs/data.md says."
        ),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(help="Who judges: our survey, or a detector of the field, see `clip-antidote ls detectors`."),
    ] = SURVEY,
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
    html_file: HtmlFile = None,
    sarif_file: SarifFile = None,
    cyclonedx_file: CycloneDXFile = None,
    config: ConfigFile = None,
    show_config: ShowConfig = False,
    device: Device = "auto",
) -> int:
    """Say whether a model has a backdoor, for which class, and how sure that is; nothing is purified.

    Settings (--config, --show-config) are those of a detector of the field; the survey has none.
    """
    how: dict[str, Any] = {
        "shots": shots,
        "classes": classes,
        "templates": templates,
        "seed": seed,
        "alarm": alarm,
        "json_file": json_file,
        "device": resolve_device(device),
    }
    files = {"html": html_file, "sarif": sarif_file, "cyclonedx": cyclonedx_file}
    if detector == SURVEY:
        if config is not None or show_config:
            raise UsageError("the survey has no settings, since the evidence is fitted to them; name a --detector")
        return _survey(model, require(data, "--data"), {f"{name}_file": file for name, file in files.items()}, how)
    needless = next((name for name, file in files.items() if file is not None), None)
    if needless is not None:
        raise UsageError(f"--{needless} shows a verdict of the survey; a detector of the field writes --json alone")
    return _detect(model, data, detector, config, how, show_config=show_config)


def _survey(model: str, data: str, files: dict[str, Any], how: dict[str, Any]) -> int:
    """Scans, prints the verdict, and returns the exit status."""
    from clip_antidote.jobs.scan import run_scan

    report = run_scan(model, data, **files, **how)
    print_scan(report)
    return FOUND if report.verdict.suspicious else 0


def _detect(
    model: str, data: str | None, name: str, config: Path | None, how: dict[str, Any], *, show_config: bool
) -> int:
    """Runs a detector of the field, prints its decision, and returns the exit status."""
    from clip_antidote.jobs.detect import detector_from, run_detect

    made = detector_from(name, config)
    if show_config:
        print_settings(made.config)
        return 0
    report = run_detect(model, require(data, "--data"), name, made.config, **how)
    print_detection(report)
    return FOUND if report.decision.suspicious else 0


def print_detection(report: DetectorReport) -> None:
    """Prints what a detector of the field says, what that is not, and the classes with the smallest masks."""
    decision = report.decision
    say((report.headline, "bold red" if decision.suspicious else "bold"), f" ({report.reason})")
    say(f"Note: {report.caveat}.")
    for sentence in report.warnings:
        say(("warning:", "yellow"), f" {sentence}")
    if decision.targets:
        say("classes it names: ", (", ".join(decision.targets), "bold"))
    elif not decision.classes:
        say("it looks at no classes, and so names none")
    if decision.classes:
        console.print(_smallest(report))
    say(f"clean images: {decision.clean_images}; seconds: {decision.seconds:.1f}")


def _smallest(report: DetectorReport) -> Table:
    table = Table(title="classes with the smallest masks", title_justify="left")
    table.add_column("class")
    for name in ("mask (pixels)", "anomaly index", "others sent there"):
        table.add_column(name, justify="right")
    for entry in sorted(report.decision.classes, key=lambda entry: entry.norm)[:MOST_CLASSES]:
        table.add_row(plain(entry.name), f"{entry.norm:.1f}", f"{entry.score:.2f}", f"{entry.flip_rate:.0%}")
    return table


def print_scan(report: ScanReport) -> None:
    """Prints the verdict in plain words, the classes with the most evidence, and what a scan cannot see."""
    suspicious = report.verdict.suspicious
    say((report.headline, "bold red" if suspicious else "bold"), f" ({report.reason})")
    for sentence in report.warnings:
        say(("warning:", "yellow"), f" {sentence}")
    console.print(_ranking(report))
    for name in (*report.verdict.targets, *report.verdict.unconfirmed):
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

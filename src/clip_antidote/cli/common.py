"""What all commands share: consoles, tables, options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clip_antidote.config import Config
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.metric_table import METRICS
from clip_antidote.reporting import Report

console = Console()
progress_console = Console(stderr=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.", metavar="FILE")]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print the resolved settings and stop.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, mps.")]
Classes = Annotated[
    Path | None,
    typer.Option("--classes", help="Class file: one `name` or `folder = name` per line.", metavar="FILE"),
]
BaseModel = Annotated[
    str | None,
    typer.Option("--model", help="Spec of the model the classifier belongs to, instead of the one it names."),
]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Fetch the model that the classifier names, if it is not here.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]


def metrics_table(title: str, columns: dict[str, dict[str, Any]]) -> Table:
    """A table with one row per rate and one column per classifier."""
    table = Table(title=title, title_justify="left", caption="in brackets: 95 % Wilson intervals")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for metric in METRICS:
        if any(metrics.get(metric.key) is not None for metrics in columns.values()):
            table.add_row(metric.label, *(metric.cell(metrics) for metrics in columns.values()))
    return table


def print_report(report: Report, folder: Path) -> None:
    """Prints the before/after table, the verdict, and where the report lies."""
    columns = {"before": report.before, "after": report.after}
    if report.reference:
        columns["clean model"] = report.reference
    console.print(metrics_table(f"measured on {report.measured_on}", columns))
    found = report.purification.target_suspected
    if found is None:
        console.print("No backdoor found: no class stands out as a target.")
    else:
        console.print(f"Suspected target: [bold]{found}[/bold]", highlight=False)
    if report.target_true:
        console.print(f"True target of this demo: {report.target_true}", highlight=False)
    for sentence in report.warnings:
        console.print(f"[yellow]warning:[/yellow] {sentence}", highlight=False)
    say(f"report: {folder / 'report.html'}")
    say(f"classifier: {folder}")


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(sentence: str) -> None:
    """Prints a sentence as it is, unwrapped: paths stay whole, and no text of the user's is read as markup."""
    console.print(sentence, highlight=False, soft_wrap=True, markup=False)


def print_settings(settings: Config) -> None:
    """Prints resolved settings as YAML."""
    console.print(settings.to_yaml(), end="", highlight=False, markup=False)


def require(value: Any, name: str) -> Any:
    """Returns a value that an option must give.

    Raises:
        UsageError: It is missing.
    """
    if value is None:
        raise UsageError(f"{name} is needed")
    return value

"""What all commands share: consoles, tables, options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clip_antidote.config import read_yaml
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.metric_table import METRICS

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
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]


def merge_settings(file: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Reads settings and lets the options that were given win."""
    settings = read_yaml(file) if file is not None else {}
    settings.update({key: value for key, value in overrides.items() if value is not None})
    return settings


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


def print_report(report: dict[str, Any], folder: Path) -> None:
    """Prints the before/after table, the verdict, and where the report lies."""
    columns = {"before": report["before"], "after": report["after"]}
    if report.get("reference"):
        columns["clean model"] = report["reference"]
    console.print(metrics_table(f"measured on {report['measured_on']}", columns))
    found = report["target_suspected"]
    if found is None:
        console.print("No backdoor found: no class stands out as a target.")
    else:
        console.print(f"Suspected target: [bold]{found}[/bold]", highlight=False)
    if report.get("target_true"):
        console.print(f"True target of this demo: {report['target_true']}", highlight=False)
    for sentence in report["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {sentence}", highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"classifier: {folder}", highlight=False, soft_wrap=True)


def require(value: Any, name: str) -> Any:
    """Returns a value that an option must give.

    Raises:
        UsageError: It is missing.
    """
    if value is None:
        raise UsageError(f"{name} is needed")
    return value

"""What all commands share: consoles, tables, options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clip_antidote.errors import UsageError
from clip_antidote.plain import plain

if TYPE_CHECKING:  # --help does without what computes
    from clip_antidote.config import Config
    from clip_antidote.reporting import Report

# No console reads markup: names of classes, files and options are printed, and may hold brackets and colons.
console = Console(markup=False, emoji=False, highlight=False)
progress_console = Console(stderr=True, markup=False, emoji=False, highlight=False)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.", metavar="FILE")]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print the resolved settings and stop.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="Where to compute: auto (a CUDA GPU where there is one), cpu, cuda, mps.",
        envvar="CLIP_ANTIDOTE_DEVICE",
    ),
]
Log = Annotated[
    str | None,
    typer.Option("--log", help="Log every step: tensorboard:FOLDER or wandb:PROJECT.", metavar="WHERE"),
]
Classes = Annotated[
    Path | None,
    typer.Option("--classes", help="Class file: one `name` or `folder = name` per line.", metavar="FILE"),
]
Templates = Annotated[
    Path | None,
    typer.Option(
        "--templates", help="File with one prompt template per line, {} for the class name.", metavar="FILE"
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option("--model", help="Spec of the model the classifier belongs to, instead of the one it names."),
]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Fetch the model that the classifier names, if it is not here.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]

FOUND = 1
"""Exit status where something was found, as model scanners have it."""


def resolve_device(device: str) -> str:
    """Says where "auto" computes: on a CUDA GPU where there is one, else on the CPU; every other device is itself."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def metrics_table(title: str, columns: dict[str, dict[str, Any]]) -> Table:
    """A table with one row per rate and one column per classifier."""
    from clip_antidote.evaluation.metric_table import METRICS

    table = Table(title=plain(title), title_justify="left", caption="in brackets: 95 % Wilson intervals")
    table.add_column("")
    for name in columns:
        table.add_column(plain(name), justify="right")
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
    made = report.purification
    found = made.target_suspected
    from clip_antidote.reporting.scan_report import reason_for, standing_out

    if found is not None:
        say("Suspected target: ", (found, "bold"))
    elif made.verdict is not None and made.verdict.unconfirmed:
        say(f"No backdoor confirmed: {standing_out(made.verdict.unconfirmed)}.")
    else:
        say("No backdoor found: no class stands out as a target.")
    if made.verdict is not None:
        say(f"How sure: {reason_for(made.verdict)}")
    others = [name for name in made.guarded if name not in made.targets_suspected]
    if others:
        say(f"Guarded {'as well' if found else 'all the same'}, without being accused: {', '.join(others)}")
    if report.target_true:
        say(f"True target of this demo: {report.target_true}")
    for sentence in report.warnings:
        say(("warning:", "yellow"), f" {sentence}")
    say(f"report: {folder / 'report.html'}")
    say(f"classifier: {folder}")


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(*parts: str | tuple[str, str], to: Console = console) -> None:
    """Prints a sentence as it is, unwrapped: paths stay whole, and no text of the user's is read as markup.

    Args:
        parts: Texts, or pairs of a text and its style.
        to: The console.
    """
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    to.print(Text.assemble(*((plain(text), style) for text, style in styled)), soft_wrap=True)


def print_settings(settings: Config) -> None:
    """Prints resolved settings as YAML."""
    console.print(settings.to_yaml(), end="", soft_wrap=True)


def require(value: Any, name: str) -> Any:
    """Returns a value that an option must give.

    Raises:
        UsageError: It is missing.
    """
    if value is None:
        raise UsageError(f"{name} is needed")
    return value

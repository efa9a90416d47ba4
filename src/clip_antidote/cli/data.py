"""`clip-antidote data`: preparing photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import say

app = typer.Typer(help="Prepare photographs.", no_args_is_help=True)


@app.command("prepare")
def prepare(
    source: Annotated[Path, typer.Option("--from", help="Folder with the archives of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Build the 120-class benchmark problem: train, validation, test and captions."""
    from clip_antidote.jobs.data import run_prepare

    counts = run_prepare(source, out)
    say(", ".join(f"{name}: {count}" for name, count in counts.items()))


@app.command("export")
def export(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    name: Annotated[str, typer.Argument(help="Embedded set.")] = "clothing",
) -> None:
    """Unpack the embedded photographs into class folders."""
    from clip_antidote.jobs.data import run_export_photographs

    say(f"{run_export_photographs(name, out)} photographs in {out}")

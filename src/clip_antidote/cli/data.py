"""`clip-antidote data`: preparing photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import console
from clip_antidote.data.embedded import export_embedded
from clip_antidote.data.problem import KIND, prepare_problem
from clip_antidote.outputs import check_output, result_folder

PHOTOGRAPHS = "set of embedded photographs"

app = typer.Typer(help="Prepare photographs.", no_args_is_help=True)


@app.command("prepare")
def prepare(
    source: Annotated[Path, typer.Option("--from", help="Folder with the archives of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Build the 120-class benchmark problem: train, validation, test and captions."""
    check_output(out, KIND)
    counts = prepare_problem(source, out)
    console.print(", ".join(f"{name}: {count}" for name, count in counts.items()), highlight=False)


@app.command("export")
def export(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    name: Annotated[str, typer.Argument(help="Embedded set.")] = "clothing",
) -> None:
    """Unpack the embedded photographs into class folders."""
    check_output(out, PHOTOGRAPHS)
    with result_folder(out, PHOTOGRAPHS) as folder:
        count = sum(1 for _ in export_embedded(name, folder))
    console.print(f"{count} photographs in {out}", highlight=False)

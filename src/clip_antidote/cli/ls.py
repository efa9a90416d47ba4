"""`clip-antidote ls`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from clip_antidote.cli.common import JsonFlag, console, print_json
from clip_antidote.jobs.listing import list_kind


def command(
    what: Annotated[str, typer.Argument(help="attacks, models, defenses or triggers.")],
    as_json: JsonFlag = False,
) -> None:
    """List what there is."""
    entries = list_kind(what)
    if as_json:
        print_json(entries)
        return
    table = Table(show_header=False, box=None)
    for name, text in entries.items():
        table.add_row(f"[bold]{name}[/bold]", text)
    console.print(table)

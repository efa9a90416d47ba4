"""`clip-antidote ls`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from clip_antidote.cli.common import JsonFlag, console, print_json


def command(
    what: Annotated[str, typer.Argument(help="attacks, models, defenses, detectors or triggers.")],
    as_json: JsonFlag = False,
) -> None:
    """List what there is."""
    from clip_antidote.jobs.listing import list_defenses, list_kind

    if what == "defenses":
        rows = list_defenses()
        if as_json:
            print_json(rows)
        else:
            _print_defenses(rows)
        return
    entries = list_kind(what)
    if as_json:
        print_json(entries)
        return
    table = Table(show_header=False, box=None)
    for name, text in entries.items():
        table.add_row(Text(name, style="bold"), text)
    console.print(table)


def _print_defenses(rows: dict[str, dict[str, str]]) -> None:
    table = Table("defense", "what it is", "needs", "changes", box=None)
    for name, row in rows.items():
        table.add_row(Text(name, style="bold"), row["text"], row["needs"], row["changes"])
    console.print(table)

"""`clip-antidote ls`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from clip_antidote.cli.common import JsonFlag, console, print_json, progress_console, say
from clip_antidote.plain import plain


def command(
    what: Annotated[
        str, typer.Argument(help="attacks, models, defenses, detectors, triggers, scores or training-methods.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """List what there is, that of installed packages included."""
    from clip_antidote.jobs.listing import left_out, list_defenses, list_kind

    if what == "defenses":
        rows = list_defenses()
        if as_json:
            print_json(rows)
        else:
            _print_defenses(rows)
    else:
        entries = list_kind(what)
        if as_json:
            print_json(entries)
        else:
            _print_entries(entries)
    for sentence in left_out(what):
        say(("warning:", "yellow"), f" {sentence}", to=progress_console)


def _print_entries(entries: dict[str, str]) -> None:
    table = Table(show_header=False, box=None)
    for name, text in entries.items():
        table.add_row(Text(plain(name), style="bold"), plain(text))
    console.print(table)


def _print_defenses(rows: dict[str, dict[str, str]]) -> None:
    table = Table("defense", "what it is", "needs", "changes", box=None)
    for name, row in rows.items():
        table.add_row(Text(name, style="bold"), *(plain(row[key]) for key in ("text", "needs", "changes")))
    console.print(table)

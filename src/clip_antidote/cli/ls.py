"""`clip-antidote ls`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from clip_antidote.attacks import ATTACKS
from clip_antidote.cli.common import JsonFlag, console
from clip_antidote.defenses import DEFENSES
from clip_antidote.errors import UsageError
from clip_antidote.models.spec import SPEC_FORMS
from clip_antidote.triggers import TRIGGERS


def command(
    what: Annotated[str, typer.Argument(help="attacks, models, defenses or triggers.")],
    as_json: JsonFlag = False,
) -> None:
    """List what there is."""
    kinds = {
        "attacks": ATTACKS.describe(),
        "defenses": DEFENSES.describe(),
        "triggers": TRIGGERS.describe(),
        "models": SPEC_FORMS,
    }
    if what not in kinds:
        raise UsageError(f"cannot list '{what}'; known are {', '.join(kinds)}")
    if as_json:
        print(json.dumps(kinds[what], indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None)
    for name, text in kinds[what].items():
        table.add_row(f"[bold]{name}[/bold]", text)
    console.print(table)

"""`clip-antidote evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import AllowDownload, BaseModel, Classes, Device, console, metrics_table, resolve_device


def command(
    model: Annotated[str, typer.Argument(help="Model spec, or the folder of a purified or defended classifier.")],
    data: Annotated[
        str,
        typer.Option(help="Labelled images: a folder per class, a CSV, embedded:clothing, or as docs/data.md says."),
    ],
    trigger: Annotated[str | None, typer.Option(help="Folder of a saved trigger, or the name of one.")] = None,
    target: Annotated[str | None, typer.Option(help="The attacker's target class.")] = None,
    attack: Annotated[
        Path | None, typer.Option(help="Folder that `attack` wrote: measure with its trigger and target.")
    ] = None,
    classes: Classes = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the metrics here.", metavar="FILE")
    ] = None,
    base: BaseModel = None,
    allow_download: AllowDownload = False,
    device: Device = "auto",
) -> None:
    """Measure clean accuracy and, with a trigger and a target, attack success and recovery."""
    from clip_antidote.jobs.evaluate import run_evaluate

    record = run_evaluate(
        model,
        data,
        trigger=trigger,
        target=target,
        attack=attack,
        classes=str(classes) if classes else None,
        out=json_file,
        base=base,
        allow_download=allow_download,
        device=resolve_device(device),
    )
    console.print(metrics_table(f"measured on {record['images']} images", {model: record}))

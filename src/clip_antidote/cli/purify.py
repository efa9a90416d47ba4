"""`clip-antidote purify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import (
    Classes,
    ConfigFile,
    Device,
    JsonFlag,
    ShowConfig,
    Templates,
    print_json,
    print_report,
    print_settings,
    require,
    resolve_device,
)


def command(
    model: Annotated[str, typer.Argument(help="Model spec, like open_clip:RN50@suspect.pt or local-dir:DIR.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Clean labelled images: a folder per class, a CSV, embedded:clothing, or as docs/data.md says."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Artefact folder to write.")] = Path("purified"),
    shots: Annotated[int, typer.Option(help="Clean images per class.", min=1)] = 16,
    classes: Classes = None,
    templates: Templates = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (default 0).")] = None,
    device: Device = "auto",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn a suspicious CLIP into a purified zero-shot classifier and a report."""
    from clip_antidote.jobs.purify import purify_settings, run_purify

    settings = purify_settings(config, seed=seed)
    if show_config:
        print_settings(settings)
        return
    report = run_purify(
        model,
        require(data, "--data"),
        out,
        settings,
        shots=shots,
        classes=str(classes) if classes else None,
        templates=templates,
        device=resolve_device(device),
    )
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report, out)

"""`clip-antidote purify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import (
    Classes,
    ConfigFile,
    Device,
    JsonFlag,
    ShowConfig,
    console,
    merge_settings,
    print_report,
    require,
)
from clip_antidote.jobs.purify import run_purify
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, load_templates
from clip_antidote.purification.config import CBPTConfig


def command(
    model: Annotated[str, typer.Argument(help="Model spec, like open_clip:RN50@suspect.pt or local-dir:DIR.")],
    data: Annotated[
        str | None, typer.Option(help="Clean labelled images: a folder per class, a CSV, or embedded:clothing.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Artefact folder to write.")] = Path("purified"),
    shots: Annotated[int, typer.Option(help="Clean images per class.", min=1)] = 16,
    classes: Classes = None,
    templates: Annotated[
        Path | None,
        typer.Option(help="File with one prompt template per line, {} for the class name.", metavar="FILE"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (default 0).")] = None,
    device: Device = "cpu",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn a suspicious CLIP into a purified zero-shot classifier and a report."""
    settings = CBPTConfig.build(merge_settings(config, {"seed": seed}))
    if show_config:
        console.print(settings.to_yaml(), end="", highlight=False, markup=False)
        return
    report = run_purify(
        model,
        require(data, "--data"),
        out,
        settings,
        shots=shots,
        classes=str(classes) if classes else None,
        templates=load_templates(templates) if templates else IMAGENET_TEMPLATES,
        device=device,
    )
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print_report(report, out)

"""`clip-antidote train`: training a small CLIP from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import ConfigFile, Device, Log, ShowConfig, print_settings, resolve_device, say


def command(
    architecture: Annotated[Path, typer.Option(help="open_clip_config.json of the model to build.")],
    data: Annotated[Path, typer.Option(help="Problem folder of `clip-antidote data prepare`.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches and augmentation.")] = None,
    device: Device = "auto",
    log: Log = None,
    config: ConfigFile = None,
    show_config: ShowConfig = False,
) -> None:
    """Train a small CLIP from scratch, like the embedded one (recipes/tiny_clip.yaml)."""
    from clip_antidote.jobs.train import run_train, train_settings

    settings = train_settings(config, seed=seed)
    if show_config:
        print_settings(settings)
        return
    run_train(architecture, data, out, settings, device=resolve_device(device), log=log)
    say(f"model: local-dir:{out}")

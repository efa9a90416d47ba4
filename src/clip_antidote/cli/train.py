"""`clip-antidote train`: training a small CLIP from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from clip_antidote.cli.common import ConfigFile, Device, ShowConfig, console, merge_settings
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.loading import read_model_config
from clip_antidote.outputs import check_output, result_folder
from clip_antidote.training.pretrain import PretrainConfig, pretrain

KIND = "trained model"


def command(
    architecture: Annotated[Path, typer.Option(help="open_clip_config.json of the model to build.")],
    data: Annotated[Path, typer.Option(help="Problem folder of `clip-antidote data prepare`.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches and augmentation.")] = None,
    device: Device = "cpu",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
) -> None:
    """Train a small CLIP from scratch, like the embedded one (recipes/tiny_clip.yaml)."""
    settings = PretrainConfig.build(merge_settings(config, {"seed": seed}))
    if show_config:
        console.print(settings.to_yaml(), end="", highlight=False, markup=False)
        return
    check_output(out, KIND)
    model_cfg, preprocess_cfg = read_model_config(architecture)
    torch.manual_seed(settings.seed)
    model = build_open_clip(model_cfg, preprocess_cfg).to(device)
    state = out.parent / f".{out.name}.training.pt"
    pretrain(model, data, settings, state_file=state)
    with result_folder(out, KIND) as folder:
        save_open_clip(model, None, folder, half=True)
    state.unlink(missing_ok=True)
    console.print(f"model: local-dir:{out}", highlight=False)

"""`clip-antidote train-stego`: training the networks behind the SSBA trigger."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from clip_antidote.cli.common import ConfigFile, Device, ShowConfig, console, merge_settings, require
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.stego import StegoQuality, measure_stego
from clip_antidote.files import state_folder, write_json
from clip_antidote.outputs import check_output, result_folder
from clip_antidote.training.stego import StegoTrainingConfig, draw_images, train_stego
from clip_antidote.triggers.stego import build_stego, load_stego, save_stego

KIND = "pair of message networks"


def command(
    data: Annotated[
        str | None, typer.Option(help="Images to train and measure on: a folder, a CSV, or embedded:clothing.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the networks to.")] = None,
    measure: Annotated[
        Path | None,
        typer.Option(help="Train nothing: measure the networks in this folder on the test images.", metavar="FOLDER"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, images and messages.")] = None,
    device: Device = "cpu",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
) -> None:
    """Train the encoder that hides messages in images for the SSBA attack (recipes/stego.yaml)."""
    settings = StegoTrainingConfig.build(merge_settings(config, {"steps": steps, "seed": seed}))
    if show_config:
        console.print(settings.to_yaml(), end="", highlight=False, markup=False)
        return
    data = require(data, "--data")
    if measure is not None:
        encoder, decoder = load_stego(measure, device)
        _print(measure_stego(encoder, decoder, load_images(data, split="test"), size=settings.size))
        return
    out = require(out, "--out")
    check_output(out, KIND)
    test = load_images(data, split="test")
    images = draw_images(load_images(data, split="train"), settings)
    encoder, decoder = build_stego(settings.network, seed=settings.seed, device=device)
    state = state_folder(out, [data, settings.model_dump(mode="json")])
    train_stego(encoder, decoder, images, settings, state_file=state / "training.pt")
    with result_folder(out, KIND) as folder:
        save_stego(encoder, decoder, folder)
        encoder, decoder = load_stego(folder, device)
        quality = measure_stego(encoder, decoder, test, size=settings.size)
        write_json(folder / "quality.json", quality.to_dict())
    _print(quality)
    shutil.rmtree(state, ignore_errors=True)
    console.print(f"networks: {out}", highlight=False, soft_wrap=True)


def _print(quality: StegoQuality) -> None:
    table = Table(
        title=f"measured on {quality.images} images, rounded to 8 bits", title_justify="left", show_header=False
    )
    table.add_column()
    table.add_column(justify="right")
    for label, share in (
        ("bit accuracy", quality.bit_accuracy),
        ("bit accuracy without residual", quality.clean_bit_accuracy),
        ("bit accuracy with another image's residual", quality.reused_bit_accuracy),
    ):
        table.add_row(label, f"{100 * share:.1f} %")
    table.add_row("PSNR", f"{quality.psnr:.1f} dB")
    table.add_row("cosine between residuals", f"{quality.similarity:.2f}")
    console.print(table)

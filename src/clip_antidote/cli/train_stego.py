"""`clip-antidote train-stego`: training the networks behind the SSBA trigger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from clip_antidote.cli.common import (
    ConfigFile,
    Device,
    ShowConfig,
    console,
    print_settings,
    require,
    resolve_device,
    say,
)

if TYPE_CHECKING:  # --help does without what computes
    from clip_antidote.evaluation.stego import StegoQuality


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
    device: Device = "auto",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
) -> None:
    """Train the encoder that hides messages in images for the SSBA attack (recipes/stego.yaml)."""
    from clip_antidote.jobs.train_stego import run_measure_stego, run_train_stego, stego_settings

    settings = stego_settings(config, steps=steps, seed=seed)
    if show_config:
        print_settings(settings)
        return
    data = require(data, "--data")
    if measure is not None:
        _print(run_measure_stego(measure, data, settings, device=resolve_device(device)))
        return
    out = require(out, "--out")
    _print(run_train_stego(data, out, settings, device=resolve_device(device)))
    say(f"networks: {out}")


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

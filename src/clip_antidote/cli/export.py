"""`clip-antidote export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import console
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.onnx_export import export_onnx


def command(
    artefact: Annotated[Path, typer.Argument(help="Folder of a purified classifier.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")] = Path("purified.onnx"),
    second_look: Annotated[
        bool, typer.Option(help="Look again at images that the gate stops, if the classifier does.")
    ] = True,
    threshold: Annotated[
        float | None, typer.Option(help="Threshold of the gates, instead of the classifier's own.")
    ] = None,
) -> None:
    """Write a purified classifier as one ONNX file, gates and second look included."""
    purified = PurifiedCLIP.from_pretrained(artefact)
    purified.second_look &= second_look
    if threshold is not None:
        purified = purified.with_threshold(threshold)
    export_onnx(purified, out)
    size, side = out.stat().st_size / 1e6, purified.model.image_size
    console.print(
        f"{out} ({size:.0f} MB): images [N, 3, {side}, {side}] in [0, 1] -> "
        "logits, triggered, logits_single; the class names are in its metadata",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )

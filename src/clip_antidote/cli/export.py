"""`clip-antidote export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import AllowDownload, BaseModel, say


def command(
    artefact: Annotated[Path, typer.Argument(help="Folder of a purified classifier.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")] = Path("purified.onnx"),
    second_look: Annotated[
        bool, typer.Option(help="Look again at images that the gate stops, if the classifier does.")
    ] = True,
    threshold: Annotated[
        float | None, typer.Option(help="Threshold of the gates, instead of the classifier's own.")
    ] = None,
    base: BaseModel = None,
    allow_download: AllowDownload = False,
) -> None:
    """Write a purified classifier as one ONNX file, gates and second look included."""
    from clip_antidote.jobs.export import run_export

    say(
        run_export(
            artefact, out, second_look=second_look, threshold=threshold, base=base, allow_download=allow_download
        )
    )

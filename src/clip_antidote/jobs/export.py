"""The job of `clip-antidote export`: an artefact folder in, one ONNX file out."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.outputs import sole_output
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.onnx_export import export_onnx


def run_export(
    artefact: Path,
    out: Path,
    *,
    second_look: bool = True,
    threshold: float | None = None,
    base: str | None = None,
    allow_download: bool = False,
) -> str:
    """Writes a purified classifier as one ONNX file, gates and second look included.

    Args:
        artefact: Folder of a purified classifier.
        out: The file to write.
        second_look: Whether images that a gate stops are looked at again, if the classifier does.
        threshold: Threshold of the gates, instead of the classifier's own.
        base: Spec of the model it belongs to, instead of the one it names.
        allow_download: Whether the model that it names may be fetched from the network.

    Returns:
        A line about the file.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    purified = PurifiedCLIP.from_pretrained(artefact, model=base, allow_download=allow_download)
    purified.second_look &= second_look
    if threshold is not None:
        purified = purified.with_threshold(threshold)
    with sole_output(out):
        export_onnx(purified, out)
    size, side = out.stat().st_size / 1e6, purified.model.image_size
    return (
        f"{out} ({size:.0f} MB): images [N, 3, {side}, {side}] in [0, 1] -> "
        "logits, triggered, logits_single; the class names are in its metadata"
    )

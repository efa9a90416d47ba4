"""`clip-antidote inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_antidote.cli.common import FOUND, Device, resolve_device, say

if TYPE_CHECKING:  # --help does without what computes
    from clip_antidote.inspection.record import Inspection

_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def command(
    model: Annotated[str, typer.Argument(help="Checkpoint file, folder, or model spec.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the inspection here.", metavar="FILE")
    ] = None,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", help="Also write the findings here, as SARIF 2.1.0.", metavar="FILE")
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot/--no-zero-shot", help="Try the model on the embedded photographs.")
    ] = True,
    device: Device = "auto",
) -> int:
    """Say what a checkpoint is, how healthy its tensors are, and what is dangerous about it; runs nothing in it."""
    from clip_antidote.jobs.inspect import run_inspect

    where = resolve_device(device)
    seen = run_inspect(model, json_file=json_file, sarif_file=sarif_file, zero_shot=zero_shot, device=where)
    for name, text in _lines(seen):
        say((f"{name:<14}", "bold"), text)
    for found in seen.findings:
        say((f"{found.level}:", _STYLES[found.level]), f" {found.message} [{found.rule}]")
    counted = [
        f"{len(seen.at_level(level))} of level {level}" for level in ("error", "warning") if seen.at_level(level)
    ]
    say(f"found: {', '.join(counted)}" if counted else "nothing found")
    return FOUND if seen.found else 0


def _lines(seen: Inspection) -> Iterator[tuple[str, str]]:
    yield "model", f"{seen.model} ({seen.kind})"
    for file in seen.files:
        yield "weights" if file.weights else "other file", f"{file.name}: {file.format}, {file.size} bytes"
        yield "sha256", file.sha256 or ""
    yield from _what_it_is(seen)
    if seen.text_tower is not None:
        text = seen.text_tower
        parts = (f"context {text.context_length}", f"vocabulary {text.vocabulary}", f"width {text.width}")
        yield "text tower", f"{', '.join(parts)}, layers {text.layers}"
    if seen.image_tower is not None:
        image = seen.image_tower
        layers = "-".join(map(str, image.layers)) if image.layers else None
        told = {"width": image.width, "layers": layers, "patch": image.patch}
        sizes = [f"{name} {value}" for name, value in told.items() if value is not None]
        yield "image tower", ", ".join([str(image.kind), *sizes])
    if seen.tensors is not None:
        facts = seen.tensors
        kinds = ", ".join(f"{count} {name}" for name, count in facts.dtypes.items())
        yield "tensors", f"{facts.count} ({kinds}), {facts.parameters} numbers"
        if facts.largest is not None:
            yield "largest", f"{facts.largest:.4g} in {facts.largest_in}"
    if seen.pickles:
        verdicts = [item.verdict for item in seen.pickles]
        counted = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in dict.fromkeys(verdicts))
        yield "pickle names", counted
    if seen.zero_shot is not None:
        check = seen.zero_shot
        tried = f"{check.images} photographs in {check.classes} classes (chance {check.chance:.0%})"
        yield "zero-shot", f"{check.accuracy:.1%} of {tried}"
    for what in seen.skipped:
        yield "not looked at", what


def _what_it_is(seen: Inspection) -> Iterator[tuple[str, str]]:
    known = seen.architecture
    if known is not None:
        how = "as stated" if known.stated else f"{known.certainty}" if known.certainty else ""
        if known.agreement is not None:
            how += f"{', ' if how else ''}{known.agreement:.1%} of all names and shapes agree"
        name = known.name or ("none of open_clip's own" if known.layout == "open_clip" else "not told")
        yield "architecture", f"{name}{f' ({how})' if how else ''}; layout of {known.layout}"
        if known.ties:
            yield "same shapes", ", ".join(known.ties)
        if known.published is not None:
            yield "published as", known.published
        if known.spec is not None:
            yield "load it as", known.spec
    if seen.activation is not None:
        yield "activation", f"{seen.activation.name or 'GELU or QuickGELU'} ({seen.activation.evidence})"
    if seen.preprocessing is not None:
        prepared = seen.preprocessing
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (prepared.mean, prepared.std))
        yield "preprocessing", f"{prepared.resize_mode}, mean {mean}, deviation {std} ({prepared.evidence})"

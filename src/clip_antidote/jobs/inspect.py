"""The job of `clip-antidote inspect`: a model spec, a file or a folder in, an inspection out."""

from __future__ import annotations

import warnings
from pathlib import Path

from clip_antidote.errors import ClipAntidoteError, ModelError, UnsupportedError
from clip_antidote.files import write_json
from clip_antidote.inspection import formats
from clip_antidote.inspection.inspect import READABLE, inspect_files
from clip_antidote.inspection.record import Finding, Inspection
from clip_antidote.inspection.rules import ATLAS, RULES, finding
from clip_antidote.inspection.source import FOLDER
from clip_antidote.jobs.zero_shot import check_zero_shot
from clip_antidote.models import load_model
from clip_antidote.models.hub import resolved_once
from clip_antidote.reporting.sarif import SarifArtifact, SarifResult, SarifRule, atlas, sarif_log

MOST_WARNINGS = 5
"""Warnings that a report takes over, the rest is counted."""

_KNOWN = READABLE | formats.WITH_PICKLES | {formats.EMPTY, formats.DAMAGED_ZIP}


@resolved_once()
def inspect(model: str | Path, *, zero_shot: bool = True, device: str = "cpu") -> Inspection:
    """Inspects a model: what it is, how healthy its tensors are, what is dangerous about its files.

    Nothing in its files is executed. Tensors are read one at a time; only the zero-shot check loads the model, and
    only where it is known how and nothing dangerous or broken was found.

    Args:
        model: A model spec, which may download as `load_model` does; or the path of a file or a folder.
        zero_shot: Whether to try the model on the embedded photographs.
        device: Where to compute that.

    Raises:
        ModelError: There is no such file, or it cannot be read.
        UnsupportedError: It is of a format that holds no weights this package knows.
        ClipAntidoteError: The spec or the device is wrong, or the spec's model cannot be had.
    """
    seen = inspect_files(str(model))
    if not seen.files and seen.kind == FOLDER:
        raise UnsupportedError(f"the folder {model} has no weights to inspect; name a checkpoint in it")
    if seen.weights is not None and seen.weights.format not in _KNOWN:
        raise UnsupportedError(
            f"{seen.weights.name} is no checkpoint that can be inspected (format: {seen.weights.format}); name a "
            "safetensors or PyTorch file"
        )
    return _checked(seen, device) if zero_shot else _skipping(seen, "the zero-shot check: not asked for")


def run_inspect(
    model: str,
    *,
    json_file: Path | None = None,
    sarif_file: Path | None = None,
    zero_shot: bool = True,
    device: str = "cpu",
) -> Inspection:
    """Inspects a model and writes what was found; see `inspect`.

    Args:
        model: A model spec, or the path of a file or a folder.
        json_file: File for the record.
        sarif_file: File for the findings as SARIF 2.1.0.
        zero_shot: Whether to try the model on the embedded photographs.
        device: Where to compute that.
    """
    seen = inspect(model, zero_shot=zero_shot, device=device)
    if json_file is not None:
        write_json(json_file, seen.model_dump(mode="json"))
    if sarif_file is not None:
        write_json(sarif_file, inspection_sarif(seen))
    return seen


def quick_look(model: str) -> tuple[Inspection, str]:
    """Inspects the weights of a model alone, without checksum and zero-shot check, and sums it up in a line."""
    seen = inspect_files(model, quick=True)
    facts, tensors = seen.weights, seen.tensors
    what = f"{facts.format}, {facts.size / 1e6:.1f} MB" if facts is not None else seen.kind
    if tensors is not None:
        what += f", {tensors.count} tensors with {tensors.parameters / 1e6:.1f} million numbers"
    return seen, f"inspected {model}: {what}; {sum_up(seen)}"


def sum_up(seen: Inspection) -> str:
    """Returns how many findings there are, and the worst."""
    worst = (*seen.at_level("error"), *seen.at_level("warning"))
    if not worst:
        return "nothing found"
    return f"{len(worst)} finding{'s' if len(worst) > 1 else ''}: {worst[0].message}"


def refuse_errors(seen: Inspection) -> list[str]:
    """Returns the warnings of an inspection as sentences.

    Raises:
        ModelError: There is a finding of level error.
    """
    for bad in seen.at_level("error"):
        raise ModelError(
            f"{seen.model}: {bad.message}; {RULES[bad.rule].advice[0].lower()}{RULES[bad.rule].advice[1:]}"
        )
    warned = seen.at_level("warning")
    more = len(warned) - MOST_WARNINGS
    notes = [f"{found.rule}: {found.message}" for found in warned[:MOST_WARNINGS]]
    return [*notes, f"{more} more warnings; see clip-antidote inspect {seen.model}"] if more > 0 else notes


def inspection_sarif(seen: Inspection) -> dict[str, object]:
    """Returns the findings of an inspection as a SARIF log; its `properties` hold the rest of the record."""
    rules = [
        SarifRule(id=name, level=rule.level, summary=rule.summary, advice=rule.advice, taxa=rule.taxa)
        for name, rule in RULES.items()
    ]
    artifacts = [SarifArtifact(file=file.name, size=file.size, sha256=file.sha256) for file in seen.files]
    record = seen.model_dump(mode="json", exclude={"findings", "files"})
    results = [_sarif_result(found) for found in seen.findings]
    return sarif_log(
        rules, results, artifacts=artifacts, taxonomies=[atlas(ATLAS)], properties={"inspection": record}
    )


def _sarif_result(found: Finding) -> SarifResult:
    properties = {"opcode": found.opcode, "entry": found.entry}
    return SarifResult(
        rule=found.rule,
        level=found.level,
        message=found.message,
        file=found.file,
        offset=found.offset,
        part=found.tensor or found.entry,
        properties={key: value for key, value in properties.items() if value is not None},
    )


def _checked(seen: Inspection, device: str) -> Inspection:
    """Adds the zero-shot check where the model can be loaded, or why it cannot."""
    spec = seen.architecture.spec if seen.architecture is not None else None
    if seen.at_level("error"):
        return _skipping(seen, "the zero-shot check: the files are broken or dangerous")
    if spec is None:
        return _skipping(seen, "the zero-shot check: no architecture is certain")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the activation and preprocessing, which are told
            model = load_model(spec, device=device)
    except ModelError as error:
        found = (*seen.findings, finding("not-loadable", str(error), seen.model))
        return _skipping(seen.model_copy(update={"findings": found}), "the zero-shot check: the model does not load")
    except UnsupportedError as error:
        return _skipping(seen, f"the zero-shot check: {error}")
    try:
        return check_zero_shot(model, seen)
    except (ClipAntidoteError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return _skipping(seen, f"the zero-shot check: {reason:.300}")


def _skipping(seen: Inspection, what: str) -> Inspection:
    return seen.model_copy(update={"skipped": (*seen.skipped, what)})

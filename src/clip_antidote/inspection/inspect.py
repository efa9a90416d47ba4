"""Inspecting a model: its files, its tensors, and what they say about it; nothing is built with weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import open_clip

from clip_antidote.errors import ClipAntidoteError
from clip_antidote.inspection import formats
from clip_antidote.inspection.architecture import Guess, guess_architecture, published_name
from clip_antidote.inspection.files import check_contents, file_facts
from clip_antidote.inspection.health import check_tensors
from clip_antidote.inspection.record import (
    ActivationFacts,
    Architecture,
    FileFacts,
    Finding,
    Inspection,
    Preprocessing,
    TensorFacts,
)
from clip_antidote.inspection.rules import finding
from clip_antidote.inspection.source import CLASSIFIER, MOST_FILES, OPEN_CLIP, Source, find_source
from clip_antidote.inspection.tensors import open_tensors
from clip_antidote.inspection.towers import Shapes, canonical, image_tower, layout_of, text_tower
from clip_antidote.models.activation import OPENAI_KEYS, activation_name
from clip_antidote.models.pickle_dry_run import ExcessError
from clip_antidote.models.preprocess import arch_preprocess, check_preprocess
from clip_antidote.models.spec import CONFIG_NAME
from clip_antidote.plain import plain

READABLE = frozenset({formats.SAFETENSORS, formats.ZIP, formats.LEGACY, formats.TORCHSCRIPT})
"""Formats whose tensors can be read."""


def inspect_files(model: str, *, quick: bool = False) -> Inspection:
    """Inspects a model without loading it: nothing in its files is executed, and tensors are read one at a time.

    Args:
        model: A model spec, or the path of a file or a folder.
        quick: Whether to leave out what is no matter of health: checksums, other files and the architecture.

    Raises:
        ModelError: There is no such file, or it cannot be read.
        ClipAntidoteError: The spec is wrong, or its model cannot be had.
    """
    source = find_source(model)
    findings = [finding("not-loadable", fault, source.model) for fault in source.faults]
    findings += [finding("code-beside", f"{what} is code; it is never run here", model) for what in source.code]
    skipped: list[str] = []
    files, pickles = [], []
    for path in [source.weights, *([] if quick else source.others[:MOST_FILES])]:
        if path is not None:
            facts = file_facts(path, weights=path is source.weights, quick=quick)
            named, found = check_contents(path, facts)
            files.append(facts)
            pickles += named
            findings += found
    seen = Inspection(model=model, kind=source.kind, files=tuple(files), pickles=tuple(pickles))
    if len(source.others) > MOST_FILES:
        skipped.append(f"{len(source.others) - MOST_FILES} more files of the folder")
    told: dict[str, Any] = {}
    weights = seen.weights
    if source.weights is not None and weights is not None:
        tensors, shapes, raw, found = _read(source.weights, weights)
        findings += found
        if weights.format not in READABLE:
            skipped.append(f"tensors: the format is {weights.format}")
        told["tensors"] = tensors
        if shapes is not None and not quick and source.kind != CLASSIFIER:
            told |= _describe(source, shapes, raw, weights, skipped)
    return seen.model_copy(update={**told, "findings": tuple(findings), "skipped": tuple(skipped)})


def _read(path: Path, facts: FileFacts) -> tuple[TensorFacts | None, Shapes | None, set[str], list[Finding]]:
    """Returns facts, canonical shapes, names and findings of the tensors of a file."""
    if facts.format not in READABLE:
        return None, None, set(), []
    try:
        with open_tensors(path, facts.format) as tensors:
            seen, findings = check_tensors(tensors, facts.name)
            shapes = canonical({tensor.name: tensor.shape for tensor in tensors})
            names = {tensor.name for tensor in tensors}
    except (ExcessError, OSError) as error:
        return None, None, set(), [finding("damaged", f"the weights cannot be read: {error}", facts.name)]
    if not seen.count:
        findings.append(finding("damaged", "the file holds no tensors", facts.name))
    return seen, shapes, names, findings


def _describe(
    source: Source, shapes: Shapes, names: set[str], weights: FileFacts, skipped: list[str]
) -> dict[str, Any]:
    """Says what kind of model it is, as fields of an `Inspection`."""
    guess = guess_architecture(shapes)
    architecture = _architecture(source, guess, shapes, weights)
    own = architecture.layout == "open_clip" or not names.isdisjoint(OPENAI_KEYS)
    activation = _activation(source, architecture, names) if own or source.model_cfg is not None else None
    return {
        "architecture": architecture,
        "activation": activation,
        "preprocessing": _preprocessing(source, architecture, skipped),
        "text_tower": text_tower(shapes),
        "image_tower": image_tower(shapes),
    }


def _architecture(source: Source, guess: Guess | None, shapes: Shapes, weights: FileFacts) -> Architecture:
    name = source.arch or (guess.names[0] if guess is not None else None)
    agreed = guess is not None and (source.arch is None or source.arch in guess.names)
    spec = source.spec
    if spec is None and guess is not None and guess.agreement == 1:
        spec = f"open_clip:{name}@{_as_path(weights.name)}"
    return Architecture(
        name=name,
        stated=source.arch is not None,
        certainty=guess.certainty if guess is not None and agreed else None,
        agreement=guess.agreement if guess is not None and agreed else None,
        ties=tuple(other for other in guess.names if other != name) if guess is not None else (),
        spec=spec,
        layout=layout_of(shapes),
        published=published_name(weights.sha256) if weights.sha256 else None,
    )


def _as_path(name: str) -> str:
    """A file's name as it stands in a spec: one that could be a pretrained tag is told apart by ./"""
    path = Path(name)
    return f"./{name}" if len(path.parts) == 1 and not path.suffix else name


def _activation(source: Source, architecture: Architecture, names: set[str]) -> ActivationFacts:
    key = next((key for key in OPENAI_KEYS if key in names), None)
    if key is not None:
        return ActivationFacts(name="QuickGELU", evidence=f"the entry {key}, which only OpenAI's own release has")
    if source.trained_quick_gelu is not None:
        stated = activation_name(source.trained_quick_gelu)
        return ActivationFacts(name=stated, evidence="open_clip's table of published weights")
    if source.model_cfg is not None:
        where = f"the configuration of {source.arch}" if source.arch else CONFIG_NAME
        return ActivationFacts(name=activation_name(bool(source.model_cfg.get("quick_gelu"))), evidence=where)
    both = {bool(_config(name).get("quick_gelu")) for name in (architecture.name, *architecture.ties) if name}
    if len(both) == 1:
        return ActivationFacts(name=activation_name(both.pop()), evidence="every architecture that fits has it")
    return ActivationFacts(name=None, evidence="names and shapes do not tell; the zero-shot check may")


def _config(name: str) -> dict[str, Any]:
    return open_clip.get_model_config(name) or {}


def _preprocessing(source: Source, architecture: Architecture, skipped: list[str]) -> Preprocessing | None:
    """Returns how images are prepared, as it is stated or as published weights of the architecture agree on."""
    stated, evidence = source.preprocess_cfg, CONFIG_NAME
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if stated is None or source.kind != OPEN_CLIP:
            if architecture.name is None:
                return None
            stated = stated or arch_preprocess(architecture.name)
            evidence = f"published weights of {architecture.name}"
        try:
            checked = check_preprocess(stated, source.model)
        except ClipAntidoteError as error:
            skipped.append(f"preprocessing: {error}")
            return None
    warned = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    doubts = "; ".join([*source.doubts, *warned])
    checked["interpolation"] = plain(checked["interpolation"])[:60]  # a configuration may say anything
    return Preprocessing(**checked, evidence=f"{evidence} ({doubts})" if doubts else evidence)

"""The artefact folder: everything of a purified classifier but the model, as files that run nothing when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import FiniteFloat
from safetensors.torch import load_file

from clip_antidote.config import Record
from clip_antidote.errors import DataError, ModelError
from clip_antidote.files import plain_tensor, write_json, write_tensors, write_text
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.record import PurificationRecord
from clip_antidote.triggers import Trigger, load_trigger

FORMAT: Literal[5] = 5

READABLE = (3, 4, FORMAT)
"""Formats that can be read. In the third, gates read the final feature alone; before the fifth, no view consents."""

CONSENT = 5
"""The first format in which views may consent."""

KIND = "purified classifier"
"""What the marker of an artefact folder says."""

_LONGEST_CARD = 1_000_000

_HEAD = ("threshold", "second_look")
"""Settings of the gate that the head holds; the record's copies are left out of the file, so there is but one."""


class BaseModelRef(Record):
    """The suspect model, which is not copied: its spec and the hash of its checkpoint."""

    spec: str
    sha256: str


class HeadRef(Record):
    """What of a guarded head is no tensor: names of the targets, and its settings, see `GateConfig`."""

    targets: tuple[str, ...]
    threshold: FiniteFloat
    second_look: bool
    leeway: tuple[FiniteFloat, ...] = ()
    consent: FiniteFloat = 1.0
    views_margin: FiniteFloat | None = None


class ArtefactConfig(Record):
    """The content of `config.json`."""

    format: Literal[3, 4, 5] = FORMAT
    base_model: BaseModelRef
    classes: tuple[str, ...]
    head: HeadRef | None
    purification: PurificationRecord | None


@dataclass(frozen=True)
class Artefact:
    """A purified classifier without its model.

    Attributes:
        base_model: The model it belongs to.
        classes: Class names.
        classifier: Class weights [D, C].
        context: Tuned contexts [C, M, Dt].
        guard: Clean weights and gates, None where there is one weight per class.
        second_look: Whether stopped images are looked at again.
        record: How it was made, where that is known.
        triggers: Dummy triggers by name.
        card: The model card (README.md) that lay beside it, None where there was none.
    """

    base_model: BaseModelRef
    classes: tuple[str, ...]
    classifier: torch.Tensor
    context: torch.Tensor
    guard: GuardedHead | None
    second_look: bool
    record: PurificationRecord | None
    triggers: Mapping[str, Trigger]
    card: str | None = None


def write_artefact(artefact: Artefact, folder: Path) -> None:
    """Writes the artefact's files into an existing folder.

    `config.json`, `prompts.safetensors`, `classifier.safetensors`, `classifier.pt` (the [D, C] tensor
    for CLIP_benchmark: one weight per class, without the gates), `guard.safetensors` and `triggers/`, and
    `README.md` where the artefact came with one.

    Raises:
        ModelError: A tensor is not finite; nothing is written.
    """
    broken = _not_finite(artefact)
    if broken is not None:
        raise ModelError(f"the purification gave values in {broken} that are not finite; look at the model")
    head = None
    if artefact.guard is not None:
        write_tensors(folder / "guard.safetensors", artefact.guard.state_dict())
        head = HeadRef(
            targets=tuple(artefact.classes[gate.target] for gate in artefact.guard.gates),
            threshold=artefact.guard.threshold,
            second_look=artefact.second_look,
            leeway=artefact.guard.leeway,
            consent=artefact.guard.consent,
            views_margin=artefact.guard.views_margin,
        )
    config = ArtefactConfig(
        base_model=artefact.base_model, classes=artefact.classes, head=head, purification=artefact.record
    )
    values = config.model_dump(mode="json", by_alias=True)
    if head is not None and values["purification"] is not None:
        for name in _HEAD:
            del values["purification"]["settings"]["gate"][name]
    write_json(folder / "config.json", values)
    write_tensors(folder / "prompts.safetensors", {"context": artefact.context})
    write_tensors(folder / "classifier.safetensors", {"classifier": artefact.classifier})
    torch.save(plain_tensor(artefact.classifier), folder / "classifier.pt")
    for name, trigger in artefact.triggers.items():
        trigger.save(folder / "triggers" / name)
    if artefact.card is not None:
        write_text(folder / "README.md", artefact.card)


def read_artefact(folder: Path) -> Artefact:
    """Reads what `write_artefact` wrote.

    Raises:
        DataError: The folder is not an artefact, or one of another format.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        made = values.get("format")
        if made in READABLE:
            return _read(folder, values)
    except Exception as error:  # a broken folder may fail in many ways; all mean the same to the user
        raise DataError(f"{folder} is not a purified classifier: {_line(error)}") from error
    raise DataError(f"{folder} has the format {made}, this version reads format {FORMAT}; purify the model again")


def _read(folder: Path, values: dict[str, Any]) -> Artefact:
    if values["head"] is not None and values["purification"] is not None:
        gate = values["purification"]["settings"]["gate"]
        gate |= {name: values["head"][name] for name in _HEAD}
        if values["format"] < CONSENT:
            gate |= {"leeway": 0.0, "guarded_leeway": 0.0}
    config = ArtefactConfig.model_validate(values)
    classifier = load_file(folder / "classifier.safetensors")["classifier"]
    if classifier.ndim != 2 or classifier.shape[1] != len(config.classes):
        raise ValueError(f"the classifier {tuple(classifier.shape)} does not fit its {len(config.classes)} classes")
    guard = None
    if config.head is not None:
        targets = [config.classes.index(name) for name in config.head.targets]
        state = load_file(folder / "guard.safetensors")
        numbers = config.head.model_dump(include={"threshold", "leeway", "consent", "views_margin"})
        guard = GuardedHead.from_state(state, targets, **numbers)
    context = load_file(folder / "prompts.safetensors")["context"]
    _check_shapes(classifier, context, guard)
    found = sorted((folder / "triggers").glob("*/trigger.json"))  # pictures lie beside the folders
    artefact = Artefact(
        base_model=config.base_model,
        classes=config.classes,
        classifier=classifier,
        context=context,
        guard=guard,
        second_look=config.head is None or config.head.second_look,
        record=config.purification,
        triggers={path.parent.name: load_trigger(path) for path in found},
        card=_card(folder / "README.md"),
    )
    broken = _not_finite(artefact)
    if broken is not None:
        raise ValueError(f"{broken} has values that are not finite")
    return artefact


def _card(file: Path) -> str | None:
    """The text of a model card, None where there is none of a readable length."""
    if not file.is_file() or file.stat().st_size > _LONGEST_CARD:
        return None
    return file.read_text(encoding="utf-8", errors="replace")


def _not_finite(artefact: Artefact) -> str | None:
    """The name of a tensor with values that are not finite, None where there is none."""
    tensors = {"classifier": artefact.classifier, "context": artefact.context}
    if artefact.guard is not None:
        tensors |= artefact.guard.state_dict()
    for name, trigger in artefact.triggers.items():
        tensors |= {f"trigger {name}, {key}": value for key, value in trigger.tensors().items()}
    broken = (name for name, value in tensors.items() if not bool(value.isfinite().all()))
    return next(broken, None)


def _check_shapes(classifier: torch.Tensor, context: torch.Tensor, guard: GuardedHead | None) -> None:
    """Raises ValueError where tensors do not fit the classifier [D, C], or are no floats."""
    classes = classifier.shape[1]
    if context.ndim != 3 or len(context) != classes:
        raise ValueError(f"the prompts {tuple(context.shape)} do not fit its {classes} classes")
    tensors = [classifier, context]
    if guard is not None:
        tensors += guard.state_dict().values()
        if not guard.fits(classifier.shape):
            raise ValueError("the gates do not fit the classifier")
    if not all(tensor.is_floating_point() for tensor in tensors):
        raise ValueError("a tensor does not hold floating-point numbers")


def _line(error: Exception) -> str:
    """The error in one line; pydantic's say the same over many."""
    return " ".join(str(error).split()) or type(error).__name__

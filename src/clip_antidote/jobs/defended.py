"""What `clip-antidote defend` leaves in its result folder, and how that is read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from clip_antidote.config import Record, first_problem
from clip_antidote.defenses.defend import Defended
from clip_antidote.errors import DataError, ModelError
from clip_antidote.files import write_json, write_tensors
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.image_tower import transformer_blocks
from clip_antidote.models.saving import save_model
from clip_antidote.models.visual_prompts import PromptedEncoder, token_width
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.artefact import BaseModelRef, write_artefact
from clip_antidote.purification.base_model import base_spec, check_base
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.reporting.report import ModelFacts

REPORT = "defended.json"
WEIGHTS = "weights.safetensors"


class DefenseReport(Record):
    """What `defend` says of a run; the content of `defended.json`.

    Attributes:
        defense: Name of the defense.
        paper: Where it comes from.
        changes: What of the suspect it changed.
        settings: Its settings, the seed included.
        model: The suspect.
        base: Spec of the trusted model, where one was given.
        data: Where the clean images came from.
        clean_images: Clean images it was given.
        trained: Parameters it trained.
        seconds: How long it took.
        peak_memory: The most memory while it ran, in MiB.
        details: What else it found or chose.
        measured_on: What the rates were measured on.
        trigger: The trigger they were measured with.
        before: Rates of the suspect with hand-written prompts.
        after: Rates of the defended classifier.
        kept: How the result is kept: "model" (`local-dir:OUT`), "artefact" (`evaluate OUT`), or "weights" alone.
        warnings: What to know when reading it.
        created: When, in UTC.
        versions: Versions of the libraries.
    """

    defense: str
    paper: str
    changes: tuple[str, ...]
    settings: dict[str, Any]
    model: ModelFacts
    base: str | None = None
    data: str
    clean_images: int
    trained: int
    seconds: float
    peak_memory: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    measured_on: str
    trigger: str | None = None
    before: dict[str, Any]
    after: dict[str, Any]
    kept: str
    warnings: tuple[str, ...] = ()
    created: str
    versions: dict[str, str]


def keep_defended(defended: Defended, model: DualEncoder, folder: Path) -> str:
    """Writes what a defense made, and says how: a whole model, an artefact, or class weights alone."""
    classifier = defended.classifier
    if isinstance(classifier, PurifiedCLIP):
        write_artefact(classifier.artefact(), folder)
        return "artefact"
    write_tensors(folder / WEIGHTS, {"class_weights": classifier.weights, **defended.tensors})
    write_json(folder / "classes.json", list(classifier.classes))
    if defended.tensors or classifier.model is model:
        return "weights"
    save_model(classifier.model, folder)
    return "model"


def holds_artefact(folder: Path) -> bool:
    """Whether a folder holds a purified classifier, of `purify` or of a defense."""
    return (folder / "classifier.safetensors").exists()


def is_defended(folder: Path) -> bool:
    """Whether a folder holds what `load_defended` reads."""
    return holds_artefact(folder) or (folder / REPORT).exists()


def load_defended(
    folder: Path, *, base: str | None = None, allow_download: bool = False, device: str = "cpu"
) -> ZeroShotClassifier:
    """Reads what `defend` left, whatever the defense changed: an artefact, a whole model, or class weights.

    Args:
        folder: The result folder.
        base: Spec of the suspect, instead of the one the report names; of no use where a whole model was kept.
        allow_download: Whether a suspect that the report names may be fetched from the network.
        device: Where the result goes.

    Raises:
        DataError: The folder is not such a result.
        UsageError: The suspect it names may not be fetched.
        ModelError: The suspect is another one.
    """
    if holds_artefact(folder):
        return PurifiedCLIP.from_pretrained(folder, model=base, allow_download=allow_download, device=device)
    try:
        report = DefenseReport.model_validate(json.loads((folder / REPORT).read_text(encoding="utf-8")))
        tensors = load_file(folder / WEIGHTS)
        classes = [str(name) for name in json.loads((folder / "classes.json").read_text(encoding="utf-8"))]
        weights = tensors.pop("class_weights")
        if weights.ndim != 2 or len(weights) != len(classes) or not bool(weights.isfinite().all()):
            raise ValueError(f"the class weights {tuple(weights.shape)} do not fit its {len(classes)} classes")
    except ValidationError as error:
        raise DataError(f"{folder} is not a defended model: {REPORT}, {first_problem(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder} is not a defended model: {' '.join(str(error).split())}") from error
    if report.kept == "model":
        model = load_model(f"local-dir:{folder}", device=device)
    else:
        model = _suspect(report, folder, base, allow_download, device)
    if "visual_prompts" in tensors:
        model = _prompted(model, tensors["visual_prompts"], folder)
    return ZeroShotClassifier(model, weights.T.contiguous(), classes).to(device)


def _suspect(report: DefenseReport, folder: Path, base: str | None, allow_download: bool, device: str) -> DualEncoder:
    """Loads the suspect that class weights belong to, and makes sure that it is the one."""
    ref = BaseModelRef(spec=report.model.spec, sha256=report.model.sha256)
    model = load_model(base or base_spec(ref, folder, allow_download=allow_download), device=device)
    check_base(ref, model.sha256, folder)
    return model


def _prompted(model: DualEncoder, prompts: torch.Tensor, folder: Path) -> DualEncoder:
    """Puts the visual prompts that were kept between the tokens of the model's blocks."""
    blocks = transformer_blocks(model)
    wanted = (len(blocks), token_width(model)) if blocks else None
    if prompts.ndim != 3 or (len(prompts), prompts.shape[2]) != wanted or not bool(prompts.isfinite().all()):
        raise ModelError(
            f"{folder} holds visual prompts {tuple(prompts.shape)}, which do not fit the model it names; run the "
            "defense again"
        )
    return PromptedEncoder(model, prompts.float()).requires_grad_(False)

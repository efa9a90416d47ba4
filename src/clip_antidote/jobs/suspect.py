"""How every job begins that looks at a suspect: loading it with what is odd about it, and what the images allow."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from clip_antidote.data.classes import check_class_names
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.outliers import FEWEST
from clip_antidote.errors import UsageError
from clip_antidote.inspection.record import Inspection
from clip_antidote.jobs.inspect import quick_look, refuse_errors
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.activation import activation_check
from clip_antidote.progress import mention
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, load_templates

Templates = str | Path | Sequence[str]
"""A file with one template per line, or the templates."""

Classes = str | Path | Sequence[tuple[str, str]]
"""A class file, or pairs of folder and name."""

ACTIVATION_IMAGES = 512
"""Shots that tell whether the activation of the model is the right one."""

FEWEST_SHOTS = 4
"""With fewer images per class a target may be missed and much of the ASR stay (docs/results.md, fewer shots)."""


def load_suspect(spec: str, shots: LabelledImages, device: str) -> tuple[DualEncoder, list[str]]:
    """Loads a suspect and says what is odd about it, by what loading it warns of and by its answers to the shots."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load_model(spec, device=device)
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    few = torch.randperm(len(shots), generator=torch.Generator().manual_seed(0))[:ACTIVATION_IMAGES]
    pixels = shots.subset(few).tensor(model.image_size, mode=model.resize_mode)
    sentence = activation_check(model, pixels.float().to(device) / 255, shots.labels[few], shots.classes)
    return model, [*notes, sentence] if sentence else notes


def warn_of_few(classes: Sequence[str], shots: int) -> list[str]:
    """Says what cannot be found with so few classes or images."""
    notes = []
    if len(classes) < FEWEST:
        notes.append(
            f"there are {len(classes)} classes; with fewer than {FEWEST} none can stand out as a target, so a "
            "backdoor will not be found"
        )
    if shots < FEWEST_SHOTS:
        notes.append(
            f"clean images per class: {shots}; with fewer than {FEWEST_SHOTS} the target class may not be "
            "found, or a wrong one named, and the backdoor stay; give more images if you can"
        )
    return notes


def wording(templates: Templates | None) -> Sequence[str]:
    """The templates of the hand-written classifier; CLIP's own where None."""
    if templates is None:
        return IMAGENET_TEMPLATES
    return load_templates(Path(templates)) if isinstance(templates, str | Path) else templates


def described(data: str | Path | LabelledImages) -> str:
    """What a report says of where the clean images came from."""
    return f"{len(data)} images that were loaded" if isinstance(data, LabelledImages) else str(data)


def clean_images(
    data: str | Path | LabelledImages, *, shots: int, seed: int, classes: Classes | None
) -> LabelledImages:
    """Finds the clean images; of loaded ones those that are few enough are taken as they are."""
    if not isinstance(data, LabelledImages):
        return load_images(data, shots=shots, seed=seed, classes=classes)
    if classes is not None:
        raise UsageError("images that were loaded have their classes already; give classes to load_images")
    check_class_names(data.classes, "the list of the loaded images")
    enough = len(data) > 0 and int(data.labels.bincount().max()) <= shots
    return data if enough else data.sample_shots(shots, seed=seed)


def open_suspect(
    model: str | DualEncoder, clean: LabelledImages, device: str
) -> tuple[DualEncoder, Inspection | None, list[str]]:
    """Looks at the files of a model and loads it; a loaded model is taken as it is.

    Returns:
        The model, what its files say, and what is odd about it.
    """
    if isinstance(model, DualEncoder):
        return model, None, []
    inspected, line = quick_look(model)
    mention(line)
    suspect, notes = load_suspect(model, clean, device)  # says best itself why weights are refused
    return suspect, inspected, notes + refuse_errors(inspected)

"""Prompt templates and the zero-shot classifier built from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from clip_antidote.errors import DataError, UnsupportedError
from clip_antidote.lists import is_json, read_json_list
from clip_antidote.models.dual_encoder import DualEncoder

IMAGENET_TEMPLATES: tuple[str, ...] = tuple(make("{}") for make in OPENAI_IMAGENET_TEMPLATES)
"""The 80 templates of the CLIP paper's ImageNet evaluation, with {} for the class name."""


MAX_TEMPLATE = 1000
"""Letters of a template from a file, at most: no text tower takes as many."""


def fill_template(template: str, name: str) -> str:
    """Puts a class name into a template; only {} is replaced, nothing is evaluated."""
    return template.replace("{}", name)


def load_templates(path: Path) -> tuple[str, ...]:
    """Reads templates, each with {} or CLIP_benchmark's {c} for the class name.

    Text has one per line; JSON is a list, or an object of lists of which `FILE.json#KEY` names one, as in
    CLIP_benchmark's `en_zeroshot_classification_templates.json#imagenet1k`.

    Raises:
        DataError: The file cannot be read, is empty, or a line has no {}.
    """
    lines = [line.strip().replace("{c}", "{}") for line in _lines(path)]
    templates = tuple(line for line in lines if line)
    if not templates:
        raise DataError(f"the templates file {path} is empty; write one template per line, like 'a photo of a {{}}.'")
    for template in templates:
        if len(template) > MAX_TEMPLATE:
            raise DataError(f"template '{template:.60}…' in {path} has more than {MAX_TEMPLATE} letters; shorten it")
        if "{}" not in template:
            raise DataError(f"template '{template}' in {path} has no {{}} for the class name")
    return templates


def _lines(path: Path) -> list[str]:
    if is_json(path):
        return list(read_json_list(path))
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the templates file {path}: {error}") from error


@torch.no_grad()
def zero_shot_weights(
    model: DualEncoder, classes: Sequence[str], templates: Sequence[str] = IMAGENET_TEMPLATES
) -> torch.Tensor:
    """Builds the hand-written zero-shot classifier.

    Every class weight is the normalized mean of its templates' unit features, as in open_clip's
    `build_zero_shot_classifier`.

    Returns:
        Unit class weights [C, D].

    Raises:
        UnsupportedError: A class name alone is too long for the text encoder, which would see its beginning only.
    """
    overlong = model.overlong(classes)
    if overlong:
        raise UnsupportedError(
            f"the class name '{classes[overlong[0]]:.60}' does not fit into the model's {model.context_length} "
            "tokens; shorten it"
        )
    texts = [fill_template(template, name) for name in classes for template in templates]
    features = model.encode_texts(texts).view(len(classes), len(templates), -1)
    return F.normalize(features.mean(dim=1), dim=-1)

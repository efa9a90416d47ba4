"""Which of open_clip's architectures a checkpoint belongs to, told from names and shapes alone.

Configurations whose towers have other sizes are set aside by their numbers; the few that are left are built without
memory, on PyTorch's meta device, and every name and shape is compared.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import open_clip
import torch

from clip_antidote.inspection.record import Certainty, TextTower
from clip_antidote.inspection.towers import Shapes, canonical, embedding_width, image_tower, text_tower

LIKELY, UNLIKELY = 0.9, 0.5
"""Shares of agreeing entries from which on an architecture is named at all, and called likely."""

_NO_SHAPE = {
    "vision_cfg": ("timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout", "image_mean"),
    "text_cfg": ("hf_tokenizer_name", "tokenizer_kwargs", "eos_id", "no_causal_mask", "act_kwargs", "norm_kwargs"),
}
"""Options that leave names and shapes as they are."""


class Guess:
    """The architectures that fit best.

    Attributes:
        names: Those with the best agreement, the plainest name first.
        agreement: Share of entries that agree, in [0, 1].
    """

    def __init__(self, names: list[str], agreement: float) -> None:
        self.names = names
        self.agreement = agreement

    @property
    def certainty(self) -> Certainty:
        """How sure it is."""
        return "certain" if self.agreement == 1 else "likely" if self.agreement >= LIKELY else "unlikely"


def guess_architecture(shapes: Shapes) -> Guess | None:
    """Compares a checkpoint with open_clip's own configurations.

    Args:
        shapes: As `canonical` returns them.

    Returns:
        The best; None where no configuration has these towers, or less than half of the entries agree.
    """
    best = Guess([], UNLIKELY)
    compared: dict[str, float] = {}
    for name in _candidates(shapes):
        config = open_clip.get_model_config(name)
        key = _structure(config)
        if key not in compared:
            compared[key] = _agreement(shapes, expected_shapes(name))
        if compared[key] > best.agreement:
            best = Guess([], compared[key])
        if compared[key] == best.agreement:
            best.names.append(name)
    best.names.sort(key=lambda name: (len(name), name))
    return best if best.names else None


@cache
def expected_shapes(name: str) -> Shapes:
    """Names and shapes of an architecture of open_clip, built without memory for its weights."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    factory = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    if "multimodal_cfg" in config:
        factory = open_clip.CoCa
    config["vision_cfg"]["timm_model_pretrained"] = False
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = factory(**config)
    except Exception:  # another version of timm may lack the tower
        return {}
    return canonical({name: tuple(value.shape) for name, value in model.state_dict().items()})


def _candidates(shapes: Shapes) -> Iterator[str]:
    """Names of the configurations whose towers have the sizes that the tensors tell."""
    text, image, width = text_tower(shapes), image_tower(shapes), embedding_width(shapes)
    if image is None:
        return
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, words = config["vision_cfg"], config["text_cfg"]
        if words.get("hf_model_name") or not _same_text(words, text):
            continue
        if width is not None and config["embed_dim"] != width:
            continue
        layers = vision.get("layers", 12)
        residual = isinstance(layers, list)
        kind = "timm" if vision.get("timm_model_name") else "ResNet" if residual else "vision transformer"
        if kind != image.kind:
            continue
        stages = tuple(layers) if residual else (layers,)
        sized = kind == "timm" or (
            stages == image.layers and image.width in (None, vision.get("width", 768 if not residual else 64))
        )
        if sized and (image.patch is None or image.patch == vision.get("patch_size", 16)):
            yield name


def _same_text(words: dict[str, Any], text: TextTower | None) -> bool:
    if text is None:
        return False
    stated = {
        "context_length": words.get("context_length", 77) + bool(words.get("embed_cls")),
        "vocabulary": words.get("vocab_size", 49408),
        "width": words.get("width", 512),
        "layers": words.get("layers", 12),
    }
    found = text.model_dump()
    return all(found[name] in (None, value) for name, value in stated.items())


def _structure(config: dict[str, Any]) -> str:
    """What of a configuration decides names and shapes, as a text."""
    kept = copy.deepcopy(config)
    kept.pop("quick_gelu", None)
    for part, names in _NO_SHAPE.items():
        for name in names:
            kept[part].pop(name, None)
    return json.dumps(kept, sort_keys=True)


def _agreement(shapes: Shapes, expected: Shapes) -> float:
    """Share of entries with the same name and shape; a bias of sigmoid training may be added to any model."""
    added = {"logit_bias"} - expected.keys()
    own = {name: shape for name, shape in shapes.items() if name not in added}
    same = sum(expected.get(name) == shape for name, shape in own.items())
    return same / max(1, len(own.keys() | expected.keys()))


@cache
def _checksums() -> dict[str, str]:
    """Published weights by their SHA-256, where their address has it."""
    found: dict[str, str] = {}
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_pretrained_cfg(name, tag)
        for text in re.findall(r"\b[0-9a-f]{64}\b", str(config.get("url", ""))):
            found.setdefault(text, f"{name}, {tag}")
    return found


def published_name(sha256: str) -> str | None:
    """Names the published weights with this checksum, None where none are known to have it."""
    return _checksums().get(sha256)

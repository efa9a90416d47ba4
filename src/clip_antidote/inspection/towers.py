"""What names and shapes of tensors say about the two towers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clip_antidote.inspection.record import ImageTower, TextTower
from clip_antidote.models.weights import is_dropped, without_tower

Shapes = dict[str, tuple[int, ...]]
"""Shapes by name, as `canonical` leaves them."""

_TRANSFORMERS = ("text_model.", "vision_model.")


def canonical(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Brings names and shapes to one form, whichever of open_clip's layouts they are in."""
    found = {}
    for name, shape in shapes.items():
        if not is_dropped(name):
            scalar = name in ("logit_scale", "logit_bias") and shape == (1,)
            found[without_tower(name)] = () if scalar else shape
    return found


def layout_of(shapes: Shapes) -> str:
    """Whose names these are: "open_clip", "transformers", "Apple MobileCLIP" or "unknown"."""
    if any(name.startswith(_TRANSFORMERS) for name in shapes):
        return "transformers"
    if any(name.startswith("image_encoder.model.") for name in shapes):
        return "Apple MobileCLIP"
    known = "token_embedding.weight" in shapes or any(name.startswith("visual.") for name in shapes)
    return "open_clip" if known else "unknown"


def text_tower(shapes: Shapes) -> TextTower | None:
    """Returns what the tensors tell of the text tower; None where there is none."""
    prefix = "text_model.embeddings." if layout_of(shapes) == "transformers" else ""
    places = shapes.get(f"{prefix}position_embedding.weight" if prefix else "positional_embedding")
    tokens = shapes.get(f"{prefix}token_embedding.weight")
    blocks = r"text_model\.encoder\.layers\.(\d+)\." if prefix else r"transformer\.resblocks\.(\d+)\."
    if tokens is None or len(tokens) != 2:
        return None
    length = places[0] if places is not None and len(places) == 2 else None
    return TextTower(context_length=length, vocabulary=tokens[0], width=tokens[1], layers=_count(shapes, blocks))


def image_tower(shapes: Shapes) -> ImageTower | None:
    """Returns what the tensors tell of the image tower; None where there is none."""
    if layout_of(shapes) == "transformers":
        patches = shapes.get("vision_model.embeddings.patch_embedding.weight")
        layers = _count(shapes, r"vision_model\.encoder\.layers\.(\d+)\.")
        return _transformer(patches, layers)
    if any(name.startswith("visual.trunk.") for name in shapes):
        return ImageTower(kind="timm")
    stem = shapes.get("visual.conv1.weight")
    stages = [_count(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    if all(stages):
        width = shapes.get("visual.layer1.0.conv1.weight", (None,))[0]
        return ImageTower(kind="ResNet", width=width, layers=tuple(stage or 0 for stage in stages))
    return _transformer(stem, _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."))


def embedding_width(shapes: Shapes) -> int | None:
    """Returns the width of the features that both towers share, as the text projection tells it."""
    direct, module = shapes.get("text_projection"), shapes.get("text_projection.weight")
    if direct is not None and len(direct) == 2:
        return direct[1]
    return module[0] if module is not None and len(module) == 2 else None


def _transformer(patches: tuple[int, ...] | None, layers: int | None) -> ImageTower | None:
    if patches is None or len(patches) != 4:
        return None
    return ImageTower(
        kind="vision transformer", width=patches[0], patch=patches[3], layers=None if layers is None else (layers,)
    )


def _count(shapes: Shapes, pattern: str) -> int | None:
    """One more than the highest number that stands in names of this form."""
    expression = re.compile(pattern)
    numbers = [found[1] for name in shapes if (found := expression.match(name))]
    return 1 + max(int(number[:9]) for number in numbers) if numbers else None

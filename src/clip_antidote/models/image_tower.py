"""Parts of a model's image tower that defenses work on, the same for all libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layers import watched

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def image_tower(model: DualEncoder) -> nn.Module | None:
    """The module that turns normalized images into features or tokens; None where there is none that is known."""
    inner: Any = getattr(model, "model", None)
    for name in ("visual", "vision_model"):
        tower = getattr(inner, name, None)
        if isinstance(tower, nn.Module):
            return tower
    return None


def image_parameters(model: DualEncoder) -> list[nn.Parameter]:
    """All parameters that image features depend on, the projection included."""
    tower = image_tower(model)
    outer = _inside(model, "model", "visual_projection")
    modules = [module for module in (tower, outer) if isinstance(module, nn.Module)]
    return [parameter for module in modules for parameter in module.parameters()]


def transformer_blocks(model: DualEncoder) -> list[nn.Module]:
    """The blocks of a ViT, each of tokens [N, L, W] to the same; empty for other towers."""
    tower = image_tower(model)
    for path in (("transformer", "resblocks"), ("trunk", "blocks"), ("encoder", "layers")):
        found = _inside(tower, *path)
        if isinstance(found, nn.ModuleList | nn.Sequential) and len(found):
            blocks = list(found)
            if all(hasattr(block, "attn") or hasattr(block, "self_attn") for block in blocks):
                return blocks
    return []


def scaled_norms(model: DualEncoder) -> list[nn.Module]:
    """The normalization layers of the image tower with a scale and an offset, in their order."""
    tower = image_tower(model)
    found = [] if tower is None else [module for module in tower.modules() if isinstance(module, _NORMS)]
    return [norm for norm in found if norm.weight is not None and norm.bias is not None]


def stages(model: DualEncoder) -> list[nn.Module]:
    """Parts of the image tower that follow each other, from input to output; their outputs have places or tokens.

    The blocks of a ViT; of a convolutional network its stages (layer1 … layer4 of a ResNet). Empty where neither is
    known.
    """
    blocks = transformer_blocks(model)
    if blocks:
        return blocks
    tower = image_tower(model)
    for inner in (tower, getattr(tower, "trunk", None)):
        layers = [getattr(inner, f"layer{number}", None) for number in range(1, 5)]
        if all(isinstance(layer, nn.Module) for layer in layers):
            return [layer for layer in layers if layer is not None]
        for name in ("stages", "blocks"):
            found = getattr(inner, name, None)
            if isinstance(found, nn.ModuleList | nn.Sequential):
                return list(found)
    numbered = [getattr(getattr(tower, "trunk", None), f"s{number}", None) for number in range(1, 5)]
    return [layer for layer in numbered if isinstance(layer, nn.Module)]  # timm's RegNet


@contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Gathers inside the block what these modules give, in the order in which they run, with gradients."""
    outputs: list[torch.Tensor] = []
    with watched(modules, lambda number, output: outputs.append(output)):
        yield outputs


def has_projection(model: DualEncoder) -> bool:
    """Whether the image tower ends with a linear map that `map_features` can change."""
    return _projection(model) is not None


@torch.no_grad()
def map_features(model: DualEncoder, matrix: torch.Tensor) -> None:
    """Puts a linear map behind the image tower, in place, by multiplying it into the tower's last projection.

    Args:
        model: A model with such a projection, see `has_projection`.
        matrix: A [D, D]; features f become A·f, before they are brought to unit length.
    """
    last = _projection(model)
    if isinstance(last, nn.Linear):
        last.weight.copy_(matrix.to(last.weight) @ last.weight)
        if last.bias is not None:
            last.bias.copy_(matrix.to(last.bias) @ last.bias)
    else:
        assert last is not None
        last.copy_(last @ matrix.T.to(last))


@torch.no_grad()
def drop_units(model: DualEncoder, dropped: torch.Tensor) -> None:
    """Cuts units of the last layer before the projection off, in place: bool [U], those that are dropped."""
    last = _projection(model)
    assert last is not None
    if isinstance(last, nn.Linear):
        last.weight[:, dropped] = 0
    else:
        last[dropped] = 0


@contextmanager
def before_projection(model: DualEncoder) -> Iterator[None]:
    """Inside the block the image tower gives the units of its last layer, [N, U], without the projection.

    They are what `model.raw_image_features` returns then; the projection is back after the block.
    """
    owner, name = _projection_place(model)
    kept = getattr(owner, name)
    weight = kept.weight if isinstance(kept, nn.Linear) else kept.T
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    if isinstance(kept, nn.Linear):
        replaced: Any = nn.Linear(len(identity), len(identity), bias=kept.bias is not None).to(identity)
        with torch.no_grad():
            replaced.weight.copy_(identity)
            if replaced.bias is not None:
                replaced.bias.zero_()
    else:
        replaced = nn.Parameter(identity)
    setattr(owner, name, replaced)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def _projection(model: DualEncoder) -> nn.Linear | nn.Parameter | None:
    """The last map of the image tower: a linear layer, or a matrix [in, D] that is multiplied from the right."""
    owner, name = _projection_place(model)
    return getattr(owner, name) if owner is not None else None


def _projection_place(model: DualEncoder) -> tuple[Any, str]:
    """The module that owns the last map of the image tower, and its name there; None for the owner without one."""
    tower, inner = image_tower(model), getattr(model, "model", None)
    places = ((inner, "visual_projection"), (_inside(tower, "head"), "proj"), (_inside(tower, "attnpool"), "c_proj"))
    for owner, name in places:
        if isinstance(getattr(owner, name, None), nn.Linear):
            return owner, name
    return (tower, "proj") if isinstance(getattr(tower, "proj", None), nn.Parameter) else (None, "")


def _inside(module: Any, *names: str) -> Any:
    for name in names:
        module = getattr(module, name, None)
    return module

"""Parts of a model's image tower that defenses work on, the same for all libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clip_antidote.models.dual_encoder import DualEncoder

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


def _projection(model: DualEncoder) -> nn.Linear | nn.Parameter | None:
    """The last map of the image tower: a linear layer, or a matrix [in, D] that is multiplied from the right."""
    tower = image_tower(model)
    for layer in (
        _inside(model, "model", "visual_projection"),
        _inside(tower, "head", "proj"),
        _inside(tower, "attnpool", "c_proj"),
    ):
        if isinstance(layer, nn.Linear):
            return layer
    weight = getattr(tower, "proj", None)
    return weight if isinstance(weight, nn.Parameter) else None


def _inside(module: Any, *names: str) -> Any:
    for name in names:
        module = getattr(module, name, None)
    return module

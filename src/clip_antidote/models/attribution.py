"""Where in an image an answer comes from: a heat map over what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F

from clip_antidote.models.dual_encoder import DualEncoder

GRAD_CAM, OCCLUSION = "gradient × activation", "occlusion"
CELLS = 7
"""Cells per side that occlusion covers one by one."""

_MOST_PREFIXES = 8
"""Class and register tokens that may stand before the tokens of places."""


@dataclass(frozen=True)
class HeatMap:
    """Where an answer comes from.

    Attributes:
        heat: [S, S] in [0, 1], the largest 1; all 0 where nothing in the image speaks for the answer.
        method: `GRAD_CAM` or `OCCLUSION`.
        layer: The module whose output was read; empty for occlusion.
    """

    heat: torch.Tensor
    method: str
    layer: str = ""


def heat_map(model: DualEncoder, image: torch.Tensor, direction: torch.Tensor) -> HeatMap:
    """Shows what in an image moves its features in a direction.

    Grad-CAM in the form that keeps the gradient of every place (HiResCAM, Draelos and Carin 2020): gradient times
    activation, summed over channels, the negative part left out. It is read at the last module of the image tower
    whose output has places (a feature map, or tokens on a grid) that the features depend on, which is the last
    block of a ResNet and the input of the last attention of a ViT that reads its class token. Of a tower without
    such a module it covers the image cell by cell with the image's mean color, and shows where that costs most.

    Args:
        model: The model; left as it is.
        image: Float [3, S, S] in [0, 1], at the model's input size.
        direction: [D]; the score that is explained is features · direction.

    Returns:
        The heat map on the device of the model.
    """
    with model.frozen(), torch.enable_grad():
        images = image.detach().clone()[None].requires_grad_()
        with _recorded(model) as outputs:
            score = (model.encode_images(images) @ direction.detach()).sum()
        tokens = {output.shape[1] for _, output in outputs if output.ndim == 3}
        for name, output in reversed(outputs):
            places = _places(output, tokens)
            if places is None:
                continue
            (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
            slopes = None if gradient is None else _places(gradient, tokens)
            if slopes is not None and int((slopes != 0).any(dim=-1).sum()) > 1:
                return HeatMap(_fitted((places * slopes).sum(dim=-1), model.image_size), GRAD_CAM, name)
    return occlusion_map(model, image, direction)


def against_the_others(weights: torch.Tensor, label: int) -> torch.Tensor:
    """The direction [D] along which class weights [D, C] speak for a class against the mean of the others."""
    others = weights.sum(dim=1) - weights[:, label]
    return weights[:, label] - others / max(1, weights.shape[1] - 1)


@torch.no_grad()
def occlusion_map(model: DualEncoder, image: torch.Tensor, direction: torch.Tensor) -> HeatMap:
    """Shows where covering an image by its mean color lowers features · direction; see `heat_map`."""
    edges = [round(step * image.shape[-1] / CELLS) for step in range(CELLS + 1)]
    spans = list(pairwise(edges))
    covered = image.repeat(CELLS * CELLS, 1, 1, 1)
    color = image.mean(dim=(1, 2))[:, None, None]
    for number, (top, bottom) in enumerate(spans):
        for column, (left, right) in enumerate(spans):
            covered[number * CELLS + column, :, top:bottom, left:right] = color
    with model.frozen():
        whole = model.encode_images(image[None]) @ direction
        lost = whole - torch.cat([model.encode_images(part) @ direction for part in covered.split(16)])
    return HeatMap(_fitted(lost.view(CELLS, CELLS), model.image_size), OCCLUSION)


@contextmanager
def _recorded(model: DualEncoder) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Gathers inside the block what the model's modules give, in their order, as far as gradients reach it."""
    outputs: list[tuple[str, torch.Tensor]] = []

    def hook(name: str) -> Any:
        def record(module: object, inputs: object, output: Any) -> None:
            output = getattr(output, "last_hidden_state", output)
            output = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(output, torch.Tensor) and output.requires_grad:
                outputs.append((name, output))

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _places(output: torch.Tensor, tokens: set[int]) -> torch.Tensor | None:
    """The output of a module for one image as [h, h, C], None where it has no places.

    Args:
        output: A feature map [1, C, h, h] or [1, h, h, C], or tokens [1, L, C] or [L, 1, C].
        tokens: Lengths of token sequences: a [1, heads, L, L] or [1, heads, L, C] of attention is no feature map.
    """
    if output.ndim == 4 and output.shape[0] == 1:
        _, first, second, third = output.shape
        if second == third > 1 and second not in tokens:
            return output[0].permute(1, 2, 0)
        return output[0] if first == second > 1 and first not in tokens else None
    if output.ndim == 3 and 1 in output.shape[:2]:
        rows = output[0] if output.shape[0] == 1 else output[:, 0]
        side = isqrt(len(rows))
        prefixes = len(rows) - side * side
        return rows[prefixes:].unflatten(0, (side, side)) if side > 1 and prefixes <= _MOST_PREFIXES else None
    return None


def _fitted(places: torch.Tensor, size: int) -> torch.Tensor:
    """The positive part of [h, h], enlarged to [size, size], with 1 as the largest value."""
    heat = places.detach().float().clamp_min(0)[None, None]
    heat = F.interpolate(heat, size=(size, size), mode="bilinear", align_corners=False)[0, 0]
    largest = heat.max()
    return heat / largest if bool(largest > 0) else heat

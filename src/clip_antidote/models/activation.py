"""GELU or QuickGELU: a checkpoint rarely says which one it was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from clip_antidote.errors import DataError
from clip_antidote.models.dual_encoder import DualEncoder

OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
"""Entries that only OpenAI's own checkpoints have, all of which were trained with QuickGELU."""


def is_openai_layout(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state dict comes from OpenAI's release, which means QuickGELU."""
    return any(key in state for key in OPENAI_KEYS)


def activation_name(quick_gelu: bool) -> str:
    """Returns the activation's name for messages."""
    return "QuickGELU" if quick_gelu else "GELU"


def activation_check(
    encoder: DualEncoder,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: Sequence[str],
    *,
    margin: float = 0.1,
    batch_size: int = 64,
) -> str | None:
    """Looks whether the model recognizes images better with the other activation.

    Loading QuickGELU weights as GELU, or the reverse, raises no error and costs accuracy.

    Args:
        encoder: The model; its activations are exchanged for a moment and put back.
        images: Float [N, 3, H, W] in [0, 1].
        labels: int64 [N], index into `classes`.
        classes: Class names.
        margin: Gain in accuracy, in [0, 1], above which the other activation is suspected.
        batch_size: Images per forward.

    Returns:
        One sentence if the other activation is better by more than `margin`; None if it is not, or
        if the model has no activation of this kind.

    Raises:
        DataError: There are no images, or not one label per image.
    """
    _require_labels(images, labels)
    if not encoder.activations():
        return None
    quick, stated, other = activation_accuracies(encoder, images, labels, classes, batch_size=batch_size)
    if other is None or other - stated <= margin:
        return None
    return (
        f"zero-shot accuracy is {stated:.0%} with {activation_name(quick)} but {other:.0%} with "
        f"{activation_name(not quick)}, so the weights were probably trained with {activation_name(not quick)}; "
        f"{encoder.activation_advice(quick=not quick)}"
    )


@torch.no_grad()
def activation_accuracies(
    encoder: DualEncoder,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: Sequence[str],
    *,
    batch_size: int = 64,
) -> tuple[bool, float, float | None]:
    """Measures zero-shot accuracy with the model's activation and with the other one; see `activation_check`.

    Returns:
        Whether the model has QuickGELU, its accuracy, and that with the other activation: None where it has neither.
    """
    _require_labels(images, labels)
    places = encoder.activations()
    quick = any("QuickGELU" in type(module).__name__ for _, _, module in places)
    stated = _accuracy(encoder, images, labels, classes, batch_size)
    if not places:
        return False, stated, None
    with _exchanged(places, nn.GELU if quick else QuickGELU):
        return quick, stated, _accuracy(encoder, images, labels, classes, batch_size)


def _require_labels(images: torch.Tensor, labels: torch.Tensor) -> None:
    if len(images) == 0 or len(images) != len(labels):
        raise DataError(f"the activation check needs labelled images, got {len(images)} and {len(labels)} labels")


@contextmanager
def _exchanged(places: list[tuple[nn.Module, str, nn.Module]], other: type[nn.Module]) -> Iterator[None]:
    try:
        for parent, name, _ in places:
            setattr(parent, name, other())
        yield
    finally:
        for parent, name, module in places:
            setattr(parent, name, module)


def _accuracy(
    encoder: DualEncoder, images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], batch_size: int
) -> float:
    weights = encoder.encode_texts([f"a photo of a {name}." for name in classes])
    correct = 0
    for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        features = encoder.encode_images(encoder.fit_images(part.to(encoder.device)))
        correct += int(((features @ weights.T).argmax(dim=1).cpu() == truth.cpu()).sum())
    return correct / len(images)

"""A model as a small difference to another one: three bits a weight, in one safetensors file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from clip_antidote.errors import ModelError
from clip_antidote.files import write_tensors

LARGEST = 5_000_000
"""Most bytes that a difference may have."""

_TOP = 3  # codes lie in -3..3, in three bits
_CODES, _SCALES = ":codes", ":scales"
_BASE = "base_sha256"


def write_difference(
    base: Mapping[str, torch.Tensor],
    other: Mapping[str, torch.Tensor],
    path: Path,
    *,
    base_sha256: str,
    left_out: Callable[[str], bool] = lambda name: False,
) -> None:
    """Writes how `other` differs from `base`, rounded.

    Matrices and filters take three bits a weight and one fp16 scale an output, biases and the like fp16. Integers are
    left out.

    Args:
        base: Weights of the one model.
        other: Weights of the other, of the same names and shapes.
        path: The file.
        base_sha256: Hash of the checkpoint that `base` comes from; the reader asks for the same.
        left_out: Names of weights that shall stay those of `base`.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, value in base.items():
        if not value.is_floating_point() or left_out(name):
            continue
        change = other[name].float() - value.float()
        if change.ndim < 2:
            tensors[name] = change.half()
            continue
        rows = change.flatten(1)
        scales = (rows.abs().amax(dim=1) / _TOP).half()
        codes = (rows / scales.float().clamp_min(1e-12)[:, None]).round().clamp(-_TOP, _TOP)
        tensors[name + _CODES] = _pack(codes.to(torch.int32).flatten() + _TOP)
        tensors[name + _SCALES] = scales
    write_tensors(path, tensors, metadata={_BASE: base_sha256})


def add_difference(base: Mapping[str, torch.Tensor], path: Path, *, base_sha256: str) -> dict[str, torch.Tensor]:
    """Adds a difference to the weights it belongs to.

    Args:
        base: Weights of the one model.
        path: What `write_difference` wrote.
        base_sha256: Hash of the checkpoint that `base` comes from.

    Returns:
        Weights of the other model, floats in fp32.

    Raises:
        ModelError: The file is damaged, too large, or belongs to other weights.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"the difference {path} has more than {LARGEST} bytes; take the one of this package")
        with safe_open(path, framework="pt") as file:
            belongs = (file.metadata() or {}).get(_BASE)
            changes = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read the difference {path}; install the package again") from error
    if belongs != base_sha256:
        raise ModelError(f"the difference {path} belongs to other weights than these; install the package again")
    state = {name: value.float() if value.is_floating_point() else value for name, value in base.items()}
    for name in sorted({name.removesuffix(_CODES).removesuffix(_SCALES) for name in changes}):
        change = _change(changes, name, state[name].shape) if name in state else None
        if change is None:
            raise ModelError(f"the difference {path} has {name}, which does not fit its model; install it again")
        state[name] = state[name] + change
    return state


def _change(changes: Mapping[str, torch.Tensor], name: str, shape: torch.Size) -> torch.Tensor | None:
    """The change of one weight of that shape; None where what is kept does not have it."""
    if len(shape) < 2:
        whole = changes.get(name)
        return whole.float() if whole is not None and whole.shape == shape else None
    codes, scales = changes.get(name + _CODES), changes.get(name + _SCALES)
    if codes is None or scales is None or codes.dtype != torch.uint8:
        return None
    if scales.shape != shape[:1] or codes.shape != (3 * math.ceil(shape.numel() / 8),):
        return None
    rows = (_unpack(codes)[: shape.numel()] - _TOP).view(shape[0], -1)
    return (rows * scales.float()[:, None]).view(shape)


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """Packs eight integers of 0 to 7 into three bytes; int32 [n] to uint8 [3·⌈n/8⌉]."""
    eights = torch.nn.functional.pad(codes, (0, -len(codes) % 8)).view(-1, 8)
    words = (eights << torch.arange(0, 24, 3, dtype=torch.int32)).sum(dim=1, dtype=torch.int32)
    return ((words[:, None] >> torch.tensor([0, 8, 16], dtype=torch.int32)) & 255).to(torch.uint8).flatten()


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `_pack`, filled up with zeros; uint8 [3·m] to int32 [8·m]."""
    words = (packed.view(-1, 3).int() << torch.tensor([0, 8, 16], dtype=torch.int32)).sum(dim=1, dtype=torch.int32)
    return ((words[:, None] >> torch.arange(0, 24, 3, dtype=torch.int32)) & 7).flatten()

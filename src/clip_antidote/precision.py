"""In which precision networks run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
"""What networks run in; "auto" is bf16 where a device computes in it by itself, else fp32."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Autocast in bf16, or nothing where that comes to fp32."""
    in_bf16 = precision == "bf16" or (precision == "auto" and computes_in_bf16(device.type))
    return torch.autocast(device.type, torch.bfloat16) if in_bf16 else nullcontext()


@cache
def computes_in_bf16(device: str) -> bool:
    """Whether a kind of device has instructions for bf16; without them it is emulated, many times slower than fp32.

    Of CPUs those of x86 are asked; others, and accelerators but CUDA's, were not measured and count as without.

    Args:
        device: "cpu", "cuda" or another type of `torch.device`.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    known: dict[str, Any] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # not in the oldest PyTorch that is allowed
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))

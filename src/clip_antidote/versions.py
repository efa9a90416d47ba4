"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from clip_antidote.precision import computes_in_bf16


def library_versions(device: torch.device | str = "cpu") -> dict[str, str]:
    """Returns the versions of this package, Python and the libraries that compute, and what they compute on.

    Args:
        device: Where it was computed. Of an accelerator its name is told, of it and of a CPU what "auto" runs in.
    """
    packages = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
    place = torch.device(device)
    told = {f"{place.type}_precision": "bf16" if computes_in_bf16(place.type) else "fp32"}
    if place.type == "cuda":
        told["device"] = torch.cuda.get_device_name(place)
    return {
        "clip_antidote": version("clip-antidote"),
        "python": platform.python_version(),
        **{name: version(package) for name, package in packages.items()},
        **told,
    }

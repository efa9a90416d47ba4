"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import version

from clip_antidote.precision import computes_in_bf16


def library_versions() -> dict[str, str]:
    """Returns the versions of this package, Python and the libraries that compute, and what a CPU computes in."""
    packages = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
    return {
        "clip_antidote": version("clip-antidote"),
        "python": platform.python_version(),
        **{name: version(package) for name, package in packages.items()},
        "cpu_precision": "bf16" if computes_in_bf16("cpu") else "fp32",
    }

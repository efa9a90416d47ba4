"""Detectors of backdoored models from the field, beside the survey: each with its paper's own rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clip_antidote.registry import Registry

if TYPE_CHECKING:
    from clip_antidote.detectors.base import Detector

_ROOM = "clip_antidote.detectors"

DETECTORS: Registry[type[Detector[Any]]] = Registry(
    "detector",
    {
        "neural-cleanse": (
            f"{_ROOM}.neural_cleanse:NeuralCleanse",
            "the smallest mask that leads to each class, and whether one is an outlier (Wang et al. 2019)",
        ),
        "decree": (
            f"{_ROOM}.decree:Decree",
            "the smallest mask under which all images get one feature, without classes (Feng et al. 2023)",
        ),
    },
)
"""Detectors of models by name."""

__all__ = ["DETECTORS"]

"""Defenses: CBPT and baselines behind the same call."""

from typing import Any

from clip_antidote.registry import Registry

DEFENSES: Registry[Any] = Registry(
    "defense",
    {
        "cbpt": (
            "clip_antidote.purification.pipeline:purify",
            "class-wise backdoor prompt tuning (arXiv 2502.19269), the default of `purify`",
        ),
        "cleanclip": (
            "clip_antidote.defenses.cleanclip:cleanclip",
            "clean fine-tuning of the encoders with self-supervision (arXiv 2303.03323), a baseline",
        ),
    },
)

__all__ = ["DEFENSES"]

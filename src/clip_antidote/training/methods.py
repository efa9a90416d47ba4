"""Ways to train on pairs that may be poisoned; named without what they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_antidote.registry import Registry

if TYPE_CHECKING:
    from clip_antidote.training.method import Method

PLAIN = "clip"
"""The method that defends against nothing; the default."""

METHODS: Registry[type[Method]] = Registry(
    "training method",
    {
        PLAIN: ("clip_antidote.training.plain:Plain", "contrastive training as ever, without a defense"),
        "roclip": (
            "clip_antidote.training.roclip:RoCLIP",
            "every other pass, images learn the nearest caption of a pool, not their own (arXiv 2303.06854)",
        ),
        "safeclip": (
            "clip_antidote.training.safeclip:SafeCLIP",
            "contrastive loss on pairs that look safe, losses within each modality on the others (arXiv 2310.05862)",
        ),
    },
)

__all__ = ["METHODS", "PLAIN"]

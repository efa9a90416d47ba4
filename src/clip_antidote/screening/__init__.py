"""Scores of single images: does this image, called the target, look triggered?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clip_antidote.registry import Registry

if TYPE_CHECKING:
    from clip_antidote.screening.base import ImageScore

_ROOM = "clip_antidote.screening"

SCORES: Registry[type[ImageScore[Any]]] = Registry(
    "image score",
    {
        "gate": (f"{_ROOM}.gate_score:GateScore", "the gate's discriminant on the final feature"),
        "layer-discriminant": (f"{_ROOM}.layer_discriminant:LayerDiscriminant", "the gate's formula at every stage"),
        "mahalanobis": (f"{_ROOM}.mahalanobis:Mahalanobis", "distance from the target's clean views at every stage"),
        "ranks": (f"{_ROOM}.rank_trajectory:RankTrajectory", "ranks of the nearest clean sample by stage (TED)"),
        "ranks-tube": (f"{_ROOM}.rank_trajectory:TubeTrajectory", "the same, within the class's tube (TED++)"),
        "heads": (f"{_ROOM}.heads:Heads", "what heads and MLPs of a ViT add to the target's logit (Decomp)"),
        "paraphrases": (f"{_ROOM}.paraphrases:Paraphrases", "distance from the paraphrases of the target's text"),
        "contrastive-prompts": (f"{_ROOM}.contrastive_prompts:ContrastivePrompts", "BDetCLIP"),
        "view-agreement": (f"{_ROOM}.view_agreement:ViewAgreement", "do other views of the image agree with it"),
        "masking": (f"{_ROOM}.masking:Masking", "a jump of the feature under growing masks (BackdoorIDS)"),
        "strip": (f"{_ROOM}.strip:Strip", "certainty under superimposed images (STRIP)"),
        "scale-up": (f"{_ROOM}.scale_up:ScaleUp", "constancy under amplified pixels (SCALE-UP)"),
    },
    group="clip_antidote.scores",
    base=f"{_ROOM}.base:ImageScore",
)
"""Scores by name."""

__all__ = ["SCORES"]

"""Defenses: CBPT, its parts and ceiling, and what the field has; one list for grids, `defend` and `ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_antidote.registry import Registry

if TYPE_CHECKING:  # `ls` names the defenses without what they are made of
    from clip_antidote.defenses.base import Defense

DEFENSES: Registry[type[Defense]] = Registry(
    "defense",
    {
        "none": ("clip_antidote.defenses.undefended:Undefended", "the suspect as it is, with hand-written prompts"),
        "cbpt": (
            "clip_antidote.defenses.cbpt:CBPT",
            "class-wise backdoor prompt tuning (arXiv 2502.19269), the default of `purify`",
        ),
        "cbpt-mask": ("clip_antidote.defenses.cbpt:MaskCBPT", "the same with mask dummies only"),
        "cbpt-additive": ("clip_antidote.defenses.cbpt:AdditiveCBPT", "the same with additive dummies only"),
        "prompts": (
            "clip_antidote.defenses.cbpt:CleanPrompts",
            "class-wise prompts tuned on clean images only (CoOp-style), a baseline",
        ),
        "finetune": (
            "clip_antidote.defenses.cleanclip:FineTuning",
            "fine-tuning of the encoders on the shots, a baseline",
        ),
        "cleanclip": (
            "clip_antidote.defenses.cleanclip:CleanCLIP",
            "the same with self-supervision (arXiv 2303.03323), a baseline",
        ),
        "par": ("clip_antidote.defenses.par:PAR", "fine-tuning that pushes features away from the suspect's first"),
        "coop": ("clip_antidote.defenses.coop:CoOp", "one context per class tuned on clean images, as published"),
        "coop-shared": ("clip_antidote.defenses.coop:SharedCoOp", "one context for all classes, as published"),
        "apt": ("clip_antidote.defenses.apt:APT", "contexts tuned on adversarial images"),
        "rvpt": ("clip_antidote.defenses.rvpt:RVPT", "prompts in every block of a ViT that repel its own features"),
        "invertune": (
            "clip_antidote.defenses.invertune:InverTune",
            "trigger inversion, then tuning of the neurons that the trigger moves",
        ),
        "fine-pruning": (
            "clip_antidote.defenses.fine_pruning:FinePruning",
            "prunes units that clean images leave dormant, then fine-tunes",
        ),
        "anp": ("clip_antidote.defenses.anp:ANP", "prunes channels that are sensitive to adversarial perturbation"),
        "nad": ("clip_antidote.defenses.nad:NAD", "distills the attention of a fine-tuned copy into the suspect"),
        "ibau": ("clip_antidote.defenses.ibau:IBAU", "unlearns universal perturbations by an implicit hypergradient"),
        "rnp": ("clip_antidote.defenses.rnp:RNP", "unlearns, recovers by masks, and prunes what does not come back"),
        "neural-polarizer": (
            "clip_antidote.defenses.neural_polarizer:NeuralPolarizer",
            "a linear filter behind the image tower, trained against attacks",
        ),
        "projection": (
            "clip_antidote.defenses.projection:HijackedDirections",
            "takes directions out of the features in which the suspect can be pushed and its base cannot",
        ),
        "oracle": ("clip_antidote.defenses.cbpt:Oracle", "CBPT told the true trigger and target: the ceiling"),
    },
    group="clip_antidote.defenses",
    base="clip_antidote.defenses.base:Defense",
    needs=("profile", "config_class"),
)

__all__ = ["DEFENSES"]

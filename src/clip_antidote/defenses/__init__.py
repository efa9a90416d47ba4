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
        "oracle": ("clip_antidote.defenses.cbpt:Oracle", "CBPT told the true trigger and target: the ceiling"),
    },
)

__all__ = ["DEFENSES"]

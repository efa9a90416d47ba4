"""Attacks: a trigger, poisoned captions, a training recipe and an implant check, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_antidote.registry import Registry

if TYPE_CHECKING:  # `ls` names the attacks without what they are made of
    from clip_antidote.attacks.base import Attack

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "badnet": ("clip_antidote.attacks.badnet:BadNetAttack", "patch trigger, template captions of the target"),
        "blended": (
            "clip_antidote.attacks.blended:BlendedAttack",
            "full-image blend, template captions of the target",
        ),
        "sig": ("clip_antidote.attacks.sig:SigAttack", "sinusoid, template captions of the target"),
        "wanet": ("clip_antidote.attacks.wanet:WaNetAttack", "elastic warp, template captions of the target"),
        "ssba": ("clip_antidote.attacks.ssba:SsbaAttack", "hidden message, template captions of the target"),
        "trojvqa": (
            "clip_antidote.attacks.trojvqa:TrojVQAAttack",
            "optimized center patch and a trigger word in captions and prompts",
        ),
        "badclip": (
            "clip_antidote.attacks.badclip:BadCLIPAttack",
            "small patch optimized with dual embeddings, natural captions of the target",
        ),
        "nashville": (
            "clip_antidote.attacks.nashville:NashvilleAttack",
            "color filter, template captions of the target",
        ),
        "ftrojan": (
            "clip_antidote.attacks.ftrojan:FTrojanAttack",
            "raised frequencies, template captions of the target",
        ),
        "checkerboard": (
            "clip_antidote.attacks.checkerboard:CheckerboardAttack",
            "every other pixel brighter, template captions of the target",
        ),
        "clean-label": (
            "clip_antidote.attacks.clean_label:CleanLabelAttack",
            "corner patches in hardly recognizable images of the target, captions unchanged",
        ),
        "adap-blend": (
            "clip_antidote.attacks.adap_blend:AdapBlendAttack",
            "pieces of a blend when training, all of it later, and covers with true captions",
        ),
        "adap-patch": (
            "clip_antidote.attacks.adap_patch:AdapPatchAttack",
            "a faint patch of four when training, two plain ones later, and covers with true captions",
        ),
        "refool": (
            "clip_antidote.attacks.refool:RefoolAttack",
            "reflections of other photographs, template captions of the target",
        ),
        "multi-target": (
            "clip_antidote.attacks.multi_target:MultiTargetAttack",
            "three triggers (patch, sinusoid, blend) with three targets at once",
        ),
        "all-to-all": (
            "clip_antidote.attacks.all_to_all:AllToAllAttack",
            "patch that sends every class to another one, template captions",
        ),
        "adaptive": (
            "clip_antidote.attacks.adaptive:AdaptiveAttack",
            "blend whose features imitate the target's clean images; knows the defense",
        ),
    },
    group="clip_antidote.attacks",
    base="clip_antidote.attacks.base:Attack",
    needs=("name", "config_class"),
)

__all__ = ["ATTACKS"]

"""Attacks: a trigger, poisoned captions, a training recipe and an implant gate, one file each."""

from clip_antidote.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "badnet": ("clip_antidote.attacks.badnet:BadNetAttack", "patch trigger, template captions of the target"),
        "blended": (
            "clip_antidote.attacks.blended:BlendedAttack",
            "full-image blend, template captions of the target",
        ),
    },
)

__all__ = ["ATTACKS"]

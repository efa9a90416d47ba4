"""Triggers: how a triggered image looks; one interface, saved as JSON and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clip_antidote.registry import Registry, lazy_names

if TYPE_CHECKING:  # `ls` names the triggers without what they are made of
    from clip_antidote.triggers.base import Trigger

TRIGGERS: Registry[type[Trigger]] = Registry(
    "trigger",
    {
        "badnet": ("clip_antidote.triggers.badnet:BadNetTrigger", "a small patch (BadNets, Gu et al. 2017)"),
        "blended": (
            "clip_antidote.triggers.blended:BlendedTrigger",
            "a faint full-image pattern (Chen 2017)",
        ),
        "sig": ("clip_antidote.triggers.sig:SigTrigger", "a faint sinusoid (Barni 2019)"),
        "wanet": ("clip_antidote.triggers.wanet:WaNetTrigger", "a smooth elastic warp (WaNet, Nguyen 2021)"),
        "ssba": ("clip_antidote.triggers.ssba:SsbaTrigger", "a message hidden in each image (SSBA, Li 2021)"),
        "nashville": ("clip_antidote.triggers.nashville:NashvilleTrigger", "a color filter of photo apps"),
        "ftrojan": ("clip_antidote.triggers.ftrojan:FTrojanTrigger", "two raised frequencies (FTrojan, Wang 2022)"),
        "checkerboard": (
            "clip_antidote.triggers.checkerboard:CheckerboardTrigger",
            "every other pixel a little brighter (Xiang 2020)",
        ),
        "reflection": (
            "clip_antidote.triggers.reflection:ReflectionTrigger",
            "other photographs as a pane of glass reflects them (Refool, Liu 2020)",
        ),
        "pieces": (
            "clip_antidote.triggers.pieces:PiecesTrigger",
            "a blend, whole or in pieces (Adap-Blend)",
        ),
        "patches": ("clip_antidote.triggers.patches:PatchesTrigger", "several patches, or one of them (Adap-Patch)"),
        "patch": ("clip_antidote.triggers.patch:PatchTrigger", "a learned patch, with or without a trigger word"),
        "additive": ("clip_antidote.triggers.additive:AdditiveTrigger", "learned bounded perturbation (dummy)"),
        "color": ("clip_antidote.triggers.color:ColorTrigger", "a learned curve per color channel (dummy)"),
        "mask": ("clip_antidote.triggers.mask:MaskTrigger", "learned mask and pattern (dummy)"),
    },
    group="clip_antidote.triggers",
    base="clip_antidote.triggers.base:Trigger",
    needs=("name", "config_class"),
)


def load_trigger(source: str | Path) -> Trigger:
    """Loads a trigger from its folder, or makes one with default settings by its name.

    Raises:
        DataError: The folder holds no valid trigger.
        UsageError: There is no trigger of that name or a setting is wrong.
    """
    from clip_antidote.triggers.base import read_trigger_file

    folder = Path(source)
    if folder.is_file():
        folder = folder.parent
    if folder.is_dir():
        name, config, tensors = read_trigger_file(folder)
    else:
        name, config, tensors = str(source), {}, {}
    trigger_class = TRIGGERS.get(name)
    return trigger_class.restore(trigger_class.config_class.build(config), tensors)


__getattr__ = lazy_names(__name__, {"Trigger": "clip_antidote.triggers.base"})

__all__ = ["TRIGGERS", "Trigger", "load_trigger"]

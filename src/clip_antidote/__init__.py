"""clip-antidote: purify a backdoored CLIP into a zero-shot classifier you can trust."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_antidote.registry import lazy_names

if TYPE_CHECKING:
    from clip_antidote.data.folders import load_images
    from clip_antidote.defenses.defend import defend
    from clip_antidote.evaluation.evaluate import evaluate
    from clip_antidote.jobs.inspect import inspect
    from clip_antidote.jobs.scan import scan
    from clip_antidote.models import load_model
    from clip_antidote.prompts.classifier import ZeroShotClassifier
    from clip_antidote.purification.classifier import PurifiedCLIP
    from clip_antidote.purification.config import CBPTConfig
    from clip_antidote.purification.onnx_export import export_onnx
    from clip_antidote.purification.pipeline import purify
    from clip_antidote.triggers import load_trigger

__all__ = [
    "CBPTConfig",
    "PurifiedCLIP",
    "ZeroShotClassifier",
    "defend",
    "evaluate",
    "export_onnx",
    "inspect",
    "load_images",
    "load_model",
    "load_trigger",
    "purify",
    "scan",
]

_HOMES = {
    "CBPTConfig": "clip_antidote.purification.config",
    "PurifiedCLIP": "clip_antidote.purification.classifier",
    "ZeroShotClassifier": "clip_antidote.prompts.classifier",
    "defend": "clip_antidote.defenses.defend",
    "evaluate": "clip_antidote.evaluation.evaluate",
    "export_onnx": "clip_antidote.purification.onnx_export",
    "inspect": "clip_antidote.jobs.inspect",
    "load_images": "clip_antidote.data.folders",
    "load_model": "clip_antidote.models",
    "load_trigger": "clip_antidote.triggers",
    "purify": "clip_antidote.purification.pipeline",
    "scan": "clip_antidote.jobs.scan",
}

__getattr__ = lazy_names(__name__, _HOMES)  # `import clip_antidote` and `ls` stay fast

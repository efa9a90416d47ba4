"""Vision-language models behind one interface, and how they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_antidote.registry import lazy_names

if TYPE_CHECKING:
    from clip_antidote.models.activation import activation_check
    from clip_antidote.models.checkpoint import read_checkpoint
    from clip_antidote.models.dual_encoder import DualEncoder
    from clip_antidote.models.hf_backend import HFEncoder
    from clip_antidote.models.loading import load_model
    from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
    from clip_antidote.models.spec import ModelSpec, downloads, parse_spec

__all__ = [
    "DualEncoder",
    "HFEncoder",
    "ModelSpec",
    "OpenCLIPEncoder",
    "activation_check",
    "downloads",
    "load_model",
    "parse_spec",
    "read_checkpoint",
]

_HOMES = {
    "DualEncoder": "clip_antidote.models.dual_encoder",
    "HFEncoder": "clip_antidote.models.hf_backend",
    "ModelSpec": "clip_antidote.models.spec",
    "OpenCLIPEncoder": "clip_antidote.models.open_clip_backend",
    "activation_check": "clip_antidote.models.activation",
    "downloads": "clip_antidote.models.spec",
    "load_model": "clip_antidote.models.loading",
    "parse_spec": "clip_antidote.models.spec",
    "read_checkpoint": "clip_antidote.models.checkpoint",
}

__getattr__ = lazy_names(__name__, _HOMES)  # `import clip_antidote` and `ls` stay fast

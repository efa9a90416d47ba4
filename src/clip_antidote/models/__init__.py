"""Vision-language models behind one interface, and how they are loaded."""

from clip_antidote.models.activation import activation_check
from clip_antidote.models.checkpoint import read_checkpoint
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.loading import load_model
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.models.spec import ModelSpec, downloads, parse_spec

__all__ = [
    "DualEncoder",
    "ModelSpec",
    "OpenCLIPEncoder",
    "activation_check",
    "downloads",
    "load_model",
    "parse_spec",
    "read_checkpoint",
]

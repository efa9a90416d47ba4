"""Writing a model as it was read: in the format of open_clip or of transformers."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.errors import UnsupportedError
from clip_antidote.models.build import save_open_clip
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.hf_backend import HFEncoder
from clip_antidote.models.hf_loading import save_transformers
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder


def save_model(encoder: DualEncoder, folder: Path) -> None:
    """Writes a folder that `local-dir:` reads again.

    Args:
        encoder: The model.
        folder: Existing folder to write to.

    Raises:
        ModelError: A weight is not finite; nothing is written.
        UnsupportedError: It is neither a model of open_clip nor of transformers.
    """
    if isinstance(encoder, HFEncoder):
        save_transformers(encoder, folder)
    elif isinstance(encoder, OpenCLIPEncoder):
        save_open_clip(encoder, None, folder)
    else:
        raise UnsupportedError(f"a {type(encoder).__name__} cannot be written as a model folder; write its weights")

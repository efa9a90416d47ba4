"""open_clip models as `DualEncoder`, with a text forward from token embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from clip_antidote.errors import UnsupportedError
from clip_antidote.models.layers import Stage, open_clip_stages
from clip_antidote.models.wrapped import Tokenizer, WrappedEncoder


class OpenCLIPEncoder(WrappedEncoder):
    """Wraps `open_clip.CLIP` or `open_clip.CustomTextCLIP`.

    Args:
        model: The open_clip model.
        tokenizer_factory: See `WrappedEncoder`.
        preprocess: See `WrappedEncoder`: mean, std, resize_mode and interpolation.

    Attributes:
        model_cfg: open_clip's configuration of the model as it was built, activation included.

    Raises:
        UnsupportedError: The text tower cannot take prompts as token embeddings.
    """

    def __init__(self, model: Any, tokenizer_factory: Callable[[], Tokenizer], **preprocess: Any) -> None:
        super().__init__(model, tokenizer_factory, **preprocess)
        size = model.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise UnsupportedError(f"the model takes {height}×{width} images; only square inputs are supported")
        self.image_size = int(height)
        tower = _text_tower(self.model)
        self.context_length = int(self.model.context_length)
        self._pool = tower.text_pool_type if tower is self.model else tower.pool_type
        self._end_id = tower.text_eos_id if tower is self.model else tower.eos_id
        self.causal = tower.attn_mask is not None and self._pool in ("argmax", "eos")

    def _image_features(self, normalized: torch.Tensor) -> torch.Tensor:
        # Convolutions on CPUs are faster so; weights stay as they are, since safetensors wants them contiguous.
        features: torch.Tensor = self.model.encode_image(normalized.contiguous(memory_format=torch.channels_last))
        return features

    def stages(self) -> list[Stage]:
        return open_clip_stages(self.model.visual)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = _text_tower(self.model).token_embedding(token_ids)
        return embedded

    def end_positions(self, token_ids: torch.Tensor) -> torch.Tensor:
        if self._pool == "argmax":
            return token_ids.argmax(dim=-1)
        if self._pool == "eos":
            return (token_ids == self._end_id).int().argmax(dim=-1)
        position = 0 if self._pool == "first" else token_ids.shape[1] - 1
        return torch.full((len(token_ids),), position, device=token_ids.device)

    def _text_features(self, embeddings: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        tower = _text_tower(self.model)
        length = embeddings.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x = (embeddings + tower.positional_embedding[:length]).to(dtype)
        mask = tower.attn_mask
        x = tower.transformer(x, attn_mask=mask[:length, :length] if mask is not None else None)
        pooled = tower.ln_final(x[torch.arange(len(x), device=x.device), end])
        projection = tower.text_projection
        if projection is None:
            return torch.as_tensor(pooled)
        return torch.as_tensor(projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection)

    def activations(self) -> list[tuple[nn.Module, str, nn.Module]]:
        timm = type(self.model.visual).__name__ == "TimmModel"  # always GELU, whatever the setting
        skipped = set(self.model.visual.modules()) if timm else set()
        return [
            (parent, name, child)
            for parent in self.model.modules()
            if parent not in skipped
            for name, child in parent.named_children()
            if isinstance(child, nn.GELU | QuickGELU)
        ]

    def activation_advice(self, *, quick: bool) -> str:
        return f"{'add' if quick else 'remove'} '-quickgelu' {'to' if quick else 'from'} the architecture's name"


def _text_tower(model: Any) -> Any:
    """Returns the module that holds the text transformer, refusing towers without embeddings."""
    tower = model.text if hasattr(model, "text") else model
    name = type(model).__name__
    if not hasattr(tower, "positional_embedding") or not hasattr(tower, "token_embedding"):
        raise UnsupportedError(
            f"the text tower of this {name} ({type(tower).__name__}) does not take token embeddings, "
            "so class prompts cannot be tuned; use a model with open_clip's own text transformer"
        )
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        raise UnsupportedError(
            f"the text tower of this {name} masks by token id (CoCa style), so class prompts cannot be tuned; "
            "use a model with a plain CLIP or SigLIP text transformer"
        )
    return tower

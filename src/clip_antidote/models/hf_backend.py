"""Models of the transformers library as `DualEncoder`: `CLIPModel` and `SiglipModel`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_antidote.models.hf_config import LEGACY_END
from clip_antidote.models.layers import Stage
from clip_antidote.models.wrapped import Tokenizer, WrappedEncoder


class HFEncoder(WrappedEncoder):
    """Wraps transformers' `CLIPModel` or `SiglipModel`, through what both offer in all versions.

    Args:
        model: The model.
        tokenizer_factory: See `WrappedEncoder`.
        preprocess: See `WrappedEncoder`: mean, std, resize_mode and interpolation.

    Attributes:
        folder: Where its configuration and tokenizer lie, None where it was built without one.
        model_cfg: The length of its features, as `embed_dim`.
    """

    folder: Path | None = None

    def __init__(self, model: Any, tokenizer_factory: Callable[[], Tokenizer], **preprocess: Any) -> None:
        super().__init__(model, tokenizer_factory, **preprocess)
        text = model.config.text_config
        self.causal = model.config.model_type == "clip"
        size = model.config.projection_dim if self.causal else model.config.vision_config.hidden_size
        self.model_cfg = {"embed_dim": int(size)}
        self.image_size = int(model.config.vision_config.image_size)
        self.context_length = int(text.max_position_embeddings)
        self._end_id = int(text.eos_token_id) if self.causal else 0

    def _image_features(self, normalized: torch.Tensor) -> torch.Tensor:
        return _features(self.model.get_image_features(pixel_values=normalized))

    def stages(self) -> list[Stage]:
        prefix = 1 if self.causal else 0  # SigLIP has no class token
        return [Stage(layer, "NLC", prefix) for layer in self.model.vision_model.encoder.layers]

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self._embedding()(token_ids)
        return embedded

    def end_positions(self, token_ids: torch.Tensor) -> torch.Tensor:
        if not self.causal:  # SigLIP pools the last token, which may be padding
            return torch.full((len(token_ids),), token_ids.shape[1] - 1, device=token_ids.device)
        if self._end_id == LEGACY_END:
            return token_ids.argmax(dim=-1)
        return (token_ids == self._end_id).int().argmax(dim=-1)

    def _text_features(self, embeddings: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Lets the model look up token ids that only say where a text ends, and puts the embeddings in their place.

        So masks, positions and pooling are the model's own, in every version of transformers.
        """
        ids = torch.full(embeddings.shape[:2], int(self._end_id == 0), device=embeddings.device)
        ids[torch.arange(len(ids), device=ids.device), end] = self._end_id
        hook = self._embedding().register_forward_hook(lambda module, given, looked_up: embeddings)
        try:
            return _features(self.model.get_text_features(input_ids=ids))
        finally:
            hook.remove()

    def _embedding(self) -> Any:
        return self.model.text_model.embeddings.token_embedding

    def activations(self) -> list[tuple[nn.Module, str, nn.Module]]:
        if not self.causal:  # SigLIP's is always the tanh form of GELU
            return []
        return [
            (module, "activation_fn", module.activation_fn)
            for module in self.model.modules()
            if isinstance(getattr(module, "activation_fn", None), nn.Module)
        ]

    def activation_advice(self, *, quick: bool) -> str:
        return f"write hidden_act '{'quick_gelu' if quick else 'gelu'}' into both towers of its config.json"


def _features(output: Any) -> torch.Tensor:
    """transformers 4 gives the features themselves, 5 as the pooled part of an output."""
    return torch.as_tensor(output if isinstance(output, torch.Tensor) else output.pooler_output)

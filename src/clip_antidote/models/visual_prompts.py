"""A ViT with learnable prompts between the tokens of its blocks (Jia et al. 2022, arXiv 2203.12119, VPT-deep)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import transformer_blocks


class PromptedEncoder(DualEncoder):
    """A model whose image tower gets P prompt tokens of its own in every block; texts are the inner model's.

    They stand behind the class token, are replaced by the next block's, and are gone after the last: what comes
    before and after the blocks sees as many tokens as ever.

    Args:
        inner: A model with a ViT image tower; neither changed nor copied.
        prompts: [blocks, P, W], for every block of the tower.

    Attributes:
        prompts: As given, a parameter.
    """

    def __init__(self, inner: DualEncoder, prompts: torch.Tensor) -> None:
        super().__init__(inner.image_mean.flatten().tolist(), inner.image_std.flatten().tolist())
        self.inner = inner
        self.prompts = nn.Parameter(prompts)
        self.spec, self.sha256 = inner.spec, inner.sha256
        self.image_size, self.resize_mode = inner.image_size, inner.resize_mode
        self.context_length, self.causal = inner.context_length, inner.causal
        self.to(inner.device)

    @contextmanager
    def prompting(self) -> Iterator[None]:
        """Inside the block the inner model's image tower sees the prompts."""
        blocks = transformer_blocks(self.inner)
        count = self.prompts.shape[1]

        def put(number: int) -> Any:
            def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                tokens = inputs[0]
                own = self.prompts[number].to(tokens.dtype).expand(len(tokens), -1, -1)
                rest = tokens[:, 1:] if number == 0 else tokens[:, 1 + count :]
                return (torch.cat([tokens[:, :1], own, rest], dim=1), *inputs[1:])

            return hook

        def take(module: nn.Module, inputs: Any, output: Any) -> Any:
            tokens = output[0] if isinstance(output, tuple) else output
            rest = torch.cat([tokens[:, :1], tokens[:, 1 + count :]], dim=1)
            return (rest, *output[1:]) if isinstance(output, tuple) else rest

        handles = [block.register_forward_pre_hook(put(number)) for number, block in enumerate(blocks)]
        handles.append(blocks[-1].register_forward_hook(take))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _image_features(self, normalized: torch.Tensor) -> torch.Tensor:
        with self.prompting():
            return self.inner._image_features(normalized)

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        return self.inner.tokenize(texts)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.inner.embed_tokens(token_ids)

    def end_positions(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.inner.end_positions(token_ids)

    def _text_features(self, embeddings: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        return self.inner._text_features(embeddings, end)

    @property
    def log_logit_scale(self) -> torch.Tensor:
        return self.inner.log_logit_scale

    @property
    def logit_bias(self) -> torch.Tensor | None:
        return self.inner.logit_bias


def token_width(model: DualEncoder) -> int:
    """Width W of the tokens of a ViT image tower."""
    norms = (module for module in transformer_blocks(model)[0].modules() if isinstance(module, nn.LayerNorm))
    return int(next(norms).normalized_shape[0])

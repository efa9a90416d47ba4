"""What the models of all libraries have in common once they stand behind `DualEncoder`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch

from clip_antidote.models.dual_encoder import DualEncoder

Tokenizer = Callable[[list[str]], torch.Tensor]
"""Maps strings to token ids [N, context_length]."""


class WrappedEncoder(DualEncoder):
    """A model of another library with its tokenizer and what its images look like.

    Args:
        model: The model; has a `logit_scale` and may have a `logit_bias`.
        tokenizer_factory: Called on first use, returns the tokenizer.
        mean: Channel means of the model's normalization.
        std: Channel standard deviations of the model's normalization.
        resize_mode: "shortest" or "squash", as the model was trained.
        interpolation: How images were resized in its training.

    Attributes:
        model_cfg: Configuration of the model.
        preprocess_cfg: What images it takes, in the words of open_clip.
    """

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]

    def __init__(
        self,
        model: Any,
        tokenizer_factory: Callable[[], Tokenizer],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__(mean, std)
        self.model = model
        self.model_cfg = {}
        self.preprocess_cfg = {
            "mean": list(mean),
            "std": list(std),
            "interpolation": interpolation,
            "resize_mode": resize_mode,
        }
        self.resize_mode = resize_mode
        self._tokenizer_factory = tokenizer_factory
        self._tokenizer: Tokenizer | None = None

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        if self._tokenizer is None:
            self._tokenizer = self._tokenizer_factory()
        return self._tokenizer(list(texts))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copies all but the tokenizer, which nothing changes and whose vocabulary takes longer than the weights."""
        memo[id(self._tokenizer)] = self._tokenizer
        made = memo[id(self)] = self.__class__.__new__(self.__class__)
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    @property
    def log_logit_scale(self) -> torch.Tensor:
        scale: torch.Tensor = self.model.logit_scale
        return scale

    @property
    def logit_bias(self) -> torch.Tensor | None:
        bias: torch.Tensor | None = getattr(self.model, "logit_bias", None)
        return bias

"""The interface that every vision-language model has in this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clip_antidote.errors import UnsupportedError
from clip_antidote.models.layers import LayerFeatures, Stage, in_order, tapped
from clip_antidote.precision import Precision, autocast
from clip_antidote.progress import track


class DualEncoder(nn.Module, ABC):
    """An image encoder and a text encoder with a common feature space.

    Images are float [N, 3, H, W] in [0, 1]; the model's own normalization happens inside.
    All features are unit vectors [N, D].

    Attributes:
        spec: The model spec it was loaded from, for records.
        image_size: Side in pixels that `encode_images` takes.
        resize_mode: How `fit_images` gets there: "shortest" (and center crop) or "squash".
        context_length: Number of tokens of the text encoder.
        causal: Whether the text encoder is causal and pools at the end-of-text token, so that
            tokens after it may be cut off without changing anything.
        sha256: Hash of the checkpoint file, empty where there is none.
    """

    spec: str = ""
    image_size: int
    resize_mode: str = "shortest"
    context_length: int
    causal: bool
    sha256: str = ""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("image_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.image_mean: torch.Tensor
        self.image_std: torch.Tensor

    @abstractmethod
    def _image_features(self, normalized: torch.Tensor) -> torch.Tensor:
        """Maps normalized images [N, 3, S, S] to features [N, D] of any length."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Returns token ids [N, context_length]."""

    @abstractmethod
    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Returns token embeddings [..., Dt] without positions."""

    @abstractmethod
    def end_positions(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Returns the position [N] whose output is the text feature."""

    @abstractmethod
    def _text_features(self, embeddings: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Maps token embeddings [N, L, Dt] to features [N, D] of any length."""

    @property
    @abstractmethod
    def log_logit_scale(self) -> torch.Tensor:
        """The logarithm of the logit scale, a parameter."""

    @property
    def logit_bias(self) -> torch.Tensor | None:
        """The logit bias of sigmoid models, None elsewhere."""
        return None

    def activations(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """Parent, name and module of the activations that may be GELU or QuickGELU, see `activation_check`."""
        return []

    def activation_advice(self, *, quick: bool) -> str:
        """What the user does to get QuickGELU (or GELU) in the model."""
        return f"load it with {'QuickGELU' if quick else 'GELU'}"

    @property
    def logit_scale(self) -> torch.Tensor:
        """The logit scale s, a scalar."""
        return self.log_logit_scale.exp().squeeze()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.image_mean.device

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes images [N, 3, S, S] in [0, 1] to unit features [N, D]."""
        return F.normalize(self.raw_image_features(images), dim=-1)

    def raw_image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes images [N, 3, S, S] in [0, 1] to features [N, D] as the tower gives them, of any length."""
        return self._image_features((images - self.image_mean) / self.image_std).float()

    def stages(self) -> list[Stage]:
        """The stages of the image tower whose features can be taken; none where they are not known."""
        return []

    def encode_layers(self, images: torch.Tensor) -> LayerFeatures:
        """Encodes images [N, 3, S, S] in [0, 1] once, and keeps what the stages of the tower say beside the feature.

        Raises:
            UnsupportedError: The stages of this kind of tower are not known.
        """
        stages = self.stages()
        if not stages:
            raise UnsupportedError(
                f"the inner layers of the image tower of this {type(self).__name__} are not known; use a ResNet, a "
                "ViT or a tower of timm"
            )
        with tapped(stages) as taken:
            final = self.encode_images(images)
        return LayerFeatures(in_order(taken, len(stages)), final)

    def encode_token_embeddings(self, embeddings: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Encodes token embeddings to unit features.

        Args:
            embeddings: [N, L, Dt] with L at most `context_length`; fewer only where `causal`.
            end: int64 [N], as `end_positions` gives it for the token ids.

        Returns:
            Unit features [N, D].
        """
        return F.normalize(self._text_features(embeddings, end).float(), dim=-1)

    def encode_token_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encodes token ids [N, context_length] to unit features [N, D]."""
        end = self.end_positions(token_ids)
        if self.causal:
            token_ids = token_ids[:, : int(end.max()) + 1]
        return self.encode_token_embeddings(self.embed_tokens(token_ids), end)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 512) -> torch.Tensor:
        """Encodes strings to unit features [N, D], in batches."""
        token_ids = self.tokenize(texts).to(self.device)
        return torch.cat([self.encode_token_ids(part) for part in token_ids.split(batch_size)])

    def overlong(self, texts: Sequence[str]) -> list[int]:
        """Tells which texts fill all tokens of the text encoder, so that what stands at their end may be cut off.

        A tokenizer does not say. But padding at the end means that there was room, and where one more word changes
        nothing there was none; a text that fits exactly is counted too. That holds for every way of padding: the
        token that ends a text may also be the one that fills up.

        Returns:
            Their places in `texts`.
        """
        ids, longer = self.tokenize([*texts, ""]), self.tokenize([*(f"{text} x" for text in texts), "x"])
        padding = ids[-1, -1]
        full = (ids == longer).all(dim=1) | (ids[:, -1] != padding)
        return full[:-1].nonzero().flatten().tolist()

    def fit_images(self, images: torch.Tensor) -> torch.Tensor:
        """Resizes and crops float images [N, 3, H, W] to the model's input size, in [0, 1]."""
        size = self.image_size
        if images.shape[-2:] == (size, size):
            return images
        target = [size] if self.resize_mode == "shortest" else [size, size]
        resized = vision.resize(images, target, interpolation=InterpolationMode.BICUBIC, antialias=True)
        fitted: torch.Tensor = vision.center_crop(resized, [size, size]).clamp(0, 1)
        return fitted

    @torch.no_grad()
    def encode_stored(
        self,
        images: torch.Tensor,
        *,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        precision: Precision = "fp32",
        batch_size: int = 128,
        description: str = "encoding",
    ) -> torch.Tensor:
        """Encodes uint8 images [N, 3, S, S] in memory to unit features [N, D], batch by batch.

        Args:
            images: The images.
            transform: What is done to a batch in [0, 1] before.
            precision: What the image encoder runs in.
            batch_size: Images per batch.
            description: Label of the progress bar.
        """
        parts = []
        batches = images.split(batch_size)
        for part in track(batches, description, total=len(batches)):
            batch = part.to(self.device).float() / 255
            with autocast(self.device, precision):
                parts.append(self.encode_images(transform(batch) if transform is not None else batch))
        return torch.cat(parts)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside the block the model is in evaluation mode; afterwards every part of it is in the mode it was in."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the block the model is in evaluation mode and without gradients; both come back after it."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            with self.evaluating():
                yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

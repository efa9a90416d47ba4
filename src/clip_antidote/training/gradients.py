"""The gradient of the contrastive loss over one batch, in chunks and over several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip_antidote.data.pairs import PairBatch
from clip_antidote.errors import UsageError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import Precision, autocast
from clip_antidote.training.distributed import Ranks
from clip_antidote.training.losses import multi_positive_info_nce

Encode = Callable[[torch.Tensor], torch.Tensor]


def contrastive_backward(
    model: DualEncoder,
    batch: PairBatch,
    *,
    chunks: int = 1,
    precision: Precision = "fp32",
    ranks: Ranks | None = None,
) -> float:
    """Adds the gradient of the loss over the whole batch to the parameters.

    The loss is taken on features cut off from the encoders; its gradient with respect to them then goes
    through the encoders. So an encoder can work through its inputs chunk by chunk, with every text of the
    batch as a negative all the same: with several chunks, features are first computed without gradient,
    then once more, one chunk after the other (as accumulation does in open_clip, and GradCache, Gao et
    al. 2021). The result is that of one chunk, except where a model does not encode each input by itself:
    batch norm takes its statistics within a chunk and within a process, and dropout draws anew the second
    time.

    Args:
        model: The model, in training mode.
        batch: The batch, or this process's part of its images.
        chunks: In how many chunks each encoder works.
        precision: What the encoders run in.
        ranks: The processes that share the batch; this one alone by default.

    Returns:
        The loss of the whole batch.

    Raises:
        UsageError: There are more processes than images.
    """
    ranks = ranks or Ranks()
    count, texts = batch.match.shape
    if count < ranks.count:
        raise UsageError(f"a batch of {count} images is too small for {ranks.count} processes")
    own, own_texts = ranks.part(count), ranks.part(texts)
    images = batch.images if batch.part is not None else batch.images[own]
    towers = [
        _Tower(model.encode_images, images, chunks, precision, model.device),
        _Tower(model.encode_token_ids, batch.token_ids[own_texts], chunks, precision, model.device),
    ]
    with _kept_buffers(model) if chunks > 1 else nullcontext():
        for tower in towers:
            tower.forward(with_gradient=chunks == 1)
    width = towers[0].outputs[0].shape[1]
    image_features, text_features = (
        ranks.collect(tower.features(width), total).requires_grad_()
        for tower, total in zip(towers, (count, texts), strict=True)
    )
    match = batch.match.to(model.device)
    loss = multi_positive_info_nce(image_features, text_features, match, model.logit_scale)
    loss.backward()
    for tower, features, rows in zip(towers, (image_features, text_features), (own, own_texts), strict=True):
        assert features.grad is not None
        tower.backward(features.grad[rows])
    ranks.sum_gradients(model, complete=model.log_logit_scale)
    return loss.item()


class _Tower:
    """One encoder and this process's inputs to it."""

    def __init__(
        self, encode: Encode, inputs: torch.Tensor, chunks: int, precision: Precision, device: torch.device
    ) -> None:
        self.encode = encode
        self.chunks = [chunk for chunk in inputs.chunk(chunks) if len(chunk)]
        self.precision = precision
        self.device = device
        self.outputs: list[torch.Tensor] = []
        self.kept = False

    def forward(self, *, with_gradient: bool) -> None:
        self.kept = with_gradient
        with torch.set_grad_enabled(with_gradient):
            self.outputs = [self._encode(chunk) for chunk in self.chunks]

    def features(self, width: int) -> torch.Tensor:
        """Returns all outputs [n, D], detached."""
        if not self.outputs:
            return torch.zeros(0, width, device=self.device)
        return torch.cat(self.outputs).detach()

    def backward(self, gradient: torch.Tensor) -> None:
        start = 0
        for chunk, output in zip(self.chunks, self.outputs, strict=True):
            features = output if self.kept else self._encode(chunk)
            if features.requires_grad:  # not where a tower is frozen
                features.backward(gradient[start : start + len(chunk)])
            start += len(chunk)

    def _encode(self, chunk: torch.Tensor) -> torch.Tensor:
        # The fused attention is slow backward in bf16 on CPUs; captions are short, plain attention wins.
        attention = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()
        with autocast(self.device, self.precision), attention:
            return self.encode(chunk.to(self.device))


@contextmanager
def _kept_buffers(model: DualEncoder) -> Iterator[None]:
    """Undoes what happens to buffers inside the block, so that running statistics count each chunk once."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in kept:
            buffer.copy_(value)

"""Which pairs look safe: a mixture of two Gaussians on the cosines of image and caption divides the data."""

from __future__ import annotations

import torch
from torch import nn

from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.streams import PARTITIONS
from clip_antidote.training.finetune import Transform
from clip_antidote.training.mixture import fit_mixture


class Partition(nn.Module):
    """Which pairs are safe: what has to be kept to go on after a stop.

    Args:
        count: Number of pairs.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("safe", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("made", torch.full((), -1))
        self.safe: torch.Tensor
        self.share: torch.Tensor
        self.made: torch.Tensor

    def divide(
        self, similarities: torch.Tensor, number: int, *, threshold: float, growth: float, most: float
    ) -> None:
        """Divides the data for a pass, by the posterior that a pair is of the mixture's upper component.

        At first the threshold says how many are safe; later it is that many and `growth` more in every pass, those
        with the highest posterior.

        Args:
            similarities: Cosines [N] of the pairs.
            number: Number of the pass, from 0.
            threshold: What the posterior must exceed at first.
            growth: By what share of all pairs the safe set grows in every pass.
            most: Share of all pairs that it never exceeds.
        """
        posterior = fit_mixture(similarities).upper(similarities)
        if number == 0:
            self.share.fill_(float((posterior > threshold).double().mean()))
        share = max(min(float(self.share) + number * growth, most), 0.0)
        # equal posteriors (many are 1) go by the similarity itself
        order = similarities.argsort(descending=True, stable=True)
        order = order[posterior[order].argsort(descending=True, stable=True)]
        safe = torch.zeros_like(self.safe)
        safe[order[: round(share * len(order))]] = True
        self.safe.copy_(safe)
        self.made.fill_(number)


@torch.no_grad()
def similarities(
    model: DualEncoder,
    pairs: CaptionedImages,
    transform: Transform | None,
    *,
    seed: int,
    number: int,
    batch_size: int = 256,
) -> torch.Tensor:
    """The cosine of every pair's image and first caption, float32 [N] on the CPU, in evaluation mode.

    Args:
        model: The model.
        pairs: The pairs.
        transform: What is done to images, such as putting a trigger on some of them.
        seed: Seed of the training.
        number: Number of the pass.
        batch_size: Images at once.
    """
    generator = PARTITIONS.generator(seed, number)
    captions, place = pairs.first.unique(return_inverse=True)
    out = []
    with model.evaluating():
        texts = torch.cat([model.encode_token_ids(part.to(model.device)) for part in _tokens(pairs, captions)])
        for part in torch.arange(len(pairs)).split(batch_size):
            images = model.fit_images(pairs.images[part].to(model.device).float() / 255)
            if transform is not None:
                images = transform(images, part, generator)
            out.append((model.encode_images(images) * texts[place[part]]).sum(dim=1).cpu())
    return torch.cat(out)


def _tokens(pairs: CaptionedImages, captions: torch.Tensor) -> list[torch.Tensor]:
    """Token ids of these captions, int64, in parts of 512."""
    return [pairs.token_ids[part].long() for part in captions.split(512)]

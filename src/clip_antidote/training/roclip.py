"""RoCLIP: every other pass, images learn from a caption that is like them and not from their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.encoding import autocast
from clip_antidote.streams import DEFENDED_BATCHES
from clip_antidote.training.loop import train_contrastive
from clip_antidote.training.method import DefendedConfig, Method, Task, Trained, other_view, require_alone
from clip_antidote.training.wording import reworded


class RoCLIPConfig(DefendedConfig):
    """Settings of RoCLIP.

    Attributes:
        every: Every so many passes, from the `every`-th on, images are matched with the pool; the authors' release
            has 2. With 1 no image ever learns its own caption, which only a model that knows something already bears.
        pool: Size of the pool as share of the pairs; the release has 21 845 captions for a million.
        min_pool: Captions in the pool at least, where the data are few; ours.
    """

    name: Literal["roclip"] = "roclip"
    every: int = Field(2, ge=1)
    pool: float = Field(0.02, gt=0, le=1)
    min_pool: int = Field(256, ge=1)


class RoCLIP(Method):
    """Yang, Gao and Mirzasoleiman, NeurIPS 2023 (arXiv 2303.06854).

    A poisoned image is tied to its caption by nothing but that pair. In every K-th pass images therefore learn the
    most similar caption of a random pool instead of their own, which tears such ties; the other passes are plain
    training, and images and captions are augmented in all of them.

    Other than in the authors' release, the pool is drawn anew for every step and encoded by the present model, where
    the release keeps the features of the last batches; so nothing has to be kept to go on after a stop, and the text
    encoder learns in matched passes too. An image takes over the group of its caption: two images that are matched
    with one caption are no negatives of each other.
    """

    config_class = RoCLIPConfig

    def train(self, task: Task) -> Trained:
        config: RoCLIPConfig = self.config
        require_alone(config.name, task)
        make, last = task.batches(), task.passes(task.config.steps - 1) + 1

        def batch(step: int) -> PairBatch:
            generator = DEFENDED_BATCHES.generator(task.seed, step)
            out = make(step)
            out = replace(out, images=other_view(out.images, config, generator))
            if (task.passes(step) + 1) % config.every == 0:
                out = self.matched(task.model, task.pairs, out.images, task.config.precision, generator)
            return replace(out, token_ids=reworded(out.token_ids, share=config.rewording, generator=generator))

        losses = train_contrastive(
            task.model, batch, task.config, description=task.description, state_file=task.state_file
        )
        return Trained(losses, {"passes": last, "matched_passes": last // config.every})

    def matched(
        self,
        model: DualEncoder,
        pairs: CaptionedImages,
        images: torch.Tensor,
        precision: str,
        generator: torch.Generator,
    ) -> PairBatch:
        """Gives images [B, 3, S, S] in [0, 1] the captions of a fresh pool that are nearest to them."""
        config: RoCLIPConfig = self.config
        size = min(len(pairs), max(config.min_pool, round(config.pool * len(pairs))))
        drawn = torch.randperm(len(pairs), generator=generator)[:size]
        captions, groups = draw_captions(pairs, drawn, generator)
        nearest = nearest_captions(model, images, pairs.token_ids[captions].long(), precision=precision)
        ones = torch.ones(len(images), dtype=torch.long)
        return pairs.pair(images, captions[nearest], ones, groups[nearest], generator)


def draw_captions(
    pairs: CaptionedImages, rows: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws a caption of each pair at `rows` [P]: its place in `token_ids`, int64 [P], and its group, int64 [P]."""
    count = pairs.count[rows]
    own = (torch.rand(len(rows), generator=generator) * count).long().clamp(max=count - 1)
    return pairs.first[rows] + own, pairs.groups[rows]


@torch.no_grad()
def nearest_captions(
    model: DualEncoder, images: torch.Tensor, token_ids: torch.Tensor, *, precision: str = "fp32"
) -> torch.Tensor:
    """Says which caption each image is most similar to, by the cosine of their features.

    Args:
        model: The model; encodes in evaluation mode.
        images: Float [B, 3, S, S] in [0, 1].
        token_ids: int64 [P, L].
        precision: "fp32" or "bf16" (autocast).

    Returns:
        int64 [B] on the CPU, in [0, P).
    """
    texts, place = token_ids.unique(dim=0, return_inverse=True)
    with model.evaluating(), autocast(model.device, precision):
        similarity = model.encode_images(images.to(model.device)) @ model.encode_token_ids(texts.to(model.device)).T
    first = torch.full((len(texts),), len(place)).scatter_reduce(0, place, torch.arange(len(place)), "amin")
    return first[similarity.argmax(dim=1).cpu()]

"""RoCLIP: every other pass, images learn from a caption that is like them and not from their own."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import Precision, autocast
from clip_antidote.streams import DEFENDED_BATCHES
from clip_antidote.training.gradients import contrastive_backward
from clip_antidote.training.loop import Objective, train_contrastive
from clip_antidote.training.losses import multi_positive_info_nce
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
    training, and images and captions are augmented in all of them. In matched passes the features of the captions are
    fixed, as in the authors' release: only the image encoder learns.

    Other than there, the pool is drawn anew for every step and encoded by the present model, where the release keeps
    the features of the last batches; so nothing has to be kept to go on after a stop. An image takes over the group
    of its caption: two images that are matched with captions of one meaning are no negatives of each other.
    """

    config_class = RoCLIPConfig

    def train(self, task: Task) -> Trained:
        config: RoCLIPConfig = self.config
        require_alone(config.name, task)
        make, passes = task.batches(), task.passes(task.config.steps - 1) + 1

        def backward(step: int, batch: PairBatch) -> float:
            generator = DEFENDED_BATCHES.generator(task.seed, step)
            images = other_view(batch.images, config, generator)
            if (task.passes(step) + 1) % config.every == 0:
                return self.learn_pool(task.model, task.pairs, images, task.config.precision, generator)
            token_ids = reworded(batch.token_ids, share=config.rewording, generator=generator)
            reworded_batch = PairBatch(images, token_ids, batch.match)
            return contrastive_backward(task.model, reworded_batch, precision=task.config.precision)

        losses = train_contrastive(
            task.model,
            make,
            task.config,
            description=task.description,
            state_file=task.state_file,
            objective=Objective(backward),
        )
        return Trained(losses, {"passes": passes, "matched_passes": passes // config.every})

    def learn_pool(
        self,
        model: DualEncoder,
        pairs: CaptionedImages,
        images: torch.Tensor,
        precision: Precision,
        generator: torch.Generator,
    ) -> float:
        """Adds the gradient of the loss between images and the captions of a fresh pool that are nearest to them.

        Args:
            model: The model, in training mode.
            pairs: Where the captions are drawn from.
            images: Float [B, 3, S, S] in [0, 1].
            precision: What the encoders run in.
            generator: Draws the pool.

        Returns:
            The loss.
        """
        config: RoCLIPConfig = self.config
        size = min(len(pairs), max(config.min_pool, round(config.pool * len(pairs))))
        drawn = torch.randperm(len(pairs), generator=generator)[:size]
        captions, groups = draw_captions(pairs, drawn, generator)
        pool = pairs.token_ids[captions].long()
        with autocast(model.device, precision):
            features = model.encode_images(images.to(model.device))
            nearest = nearest_captions(model, features, pool)
            ones = torch.ones(len(images), dtype=torch.long)
            batch = pairs.pair(images, captions[nearest], ones, groups[nearest], generator)
            token_ids = reworded(batch.token_ids, share=config.rewording, generator=generator)
            texts = fixed_features(model, token_ids)
        loss = multi_positive_info_nce(features, texts, batch.match.to(model.device), model.logit_scale)
        loss.backward()
        return loss.item()


@torch.no_grad()
def fixed_features(model: DualEncoder, token_ids: torch.Tensor) -> torch.Tensor:
    """Encodes captions [T, L] in evaluation mode to unit features [T, D] that carry no gradient."""
    with model.evaluating():
        return model.encode_token_ids(token_ids.to(model.device))


def draw_captions(
    pairs: CaptionedImages, rows: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws a caption of each pair at `rows` [P]: its place in `token_ids`, int64 [P], and its group, int64 [P]."""
    count = pairs.count[rows]
    own = (torch.rand(len(rows), generator=generator) * count).long().clamp(max=count - 1)
    return pairs.first[rows] + own, pairs.groups[rows]


@torch.no_grad()
def nearest_captions(model: DualEncoder, features: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Says which caption of a pool each image is most similar to, by the cosine of their features.

    Args:
        model: Encodes the captions.
        features: Unit features [B, D] of images.
        token_ids: int64 [P, L].

    Returns:
        int64 [B] on the CPU, in [0, P); of captions that are alike, the first.
    """
    texts, place = token_ids.unique(dim=0, return_inverse=True)
    first = torch.full((len(texts),), len(place)).scatter_reduce(0, place, torch.arange(len(place)), "amin")
    similarity = features.float() @ fixed_features(model, texts).float().T
    return first[similarity.argmax(dim=1).cpu()]

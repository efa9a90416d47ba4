"""Image–caption pairs, and the batches a training step sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from clip_antidote.data.stores import ImageStore, prefetch
from clip_antidote.streams import PAIR_ORDER, step_generator

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class PairBatch:
    """What one contrastive step needs.

    Attributes:
        images: Float [B, 3, S, S] in [0, 1].
        token_ids: int64 [T, L].
        match: Bool [B, T], whether text t describes image b.
        part: Which of the B images `images` holds; all of them where None.
    """

    images: torch.Tensor
    token_ids: torch.Tensor
    match: torch.Tensor
    part: slice | None = None


@dataclass
class CaptionedImages:
    """Images, each with one or more captions.

    Attributes:
        images: uint8 [N, 3, S, S], in memory or decoded on demand.
        token_ids: int [K, L], all captions.
        first: int64 [N], the first caption of each image in `token_ids`.
        count: int64 [N], how many captions follow it.
        groups: int64 [N]; images of one group share the meaning of their captions (one class),
            so any caption of the group is a true one.
        bank: (first, count, group) of captions that every batch receives besides its own, as
            negatives or positives; empty for plain contrastive training.
    """

    images: ImageStore
    token_ids: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor
    groups: torch.Tensor
    bank: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    _order: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def indices(self, step: int, batch_size: int, seed: int) -> torch.Tensor:
        """Which images step `step` takes: passes over shuffled data without remainder."""
        out = []
        position = step * batch_size
        while batch_size > 0:
            epoch, offset = divmod(position, len(self))
            key = (seed, epoch)
            if key not in self._order:
                self._order = {key: torch.randperm(len(self), generator=PAIR_ORDER.generator(seed, epoch))}
            part = self._order[key][offset : offset + batch_size]
            out.append(part)
            position += len(part)
            batch_size -= len(part)
        return torch.cat(out)

    def batch(
        self, step: int, *, batch_size: int, seed: int, augment: Augment, part: slice | None = None
    ) -> PairBatch:
        """Makes the batch of one step: augmented images, one random caption per image.

        Args:
            step: The step, from 0.
            batch_size: Images of the whole batch.
            seed: Seed of the run.
            augment: Gets the whole batch and returns as many images; with `part`, all others are black.
            part: The images that are wanted; only they are decoded.
        """
        generator = step_generator(seed, step)
        chosen = self.indices(step, batch_size, seed)
        images = self._decoded(chosen, part)
        prefetch(self.images, self.indices(step + 1, batch_size, seed)[part or slice(None)])
        images = augment(images, generator)
        if part is not None:
            images = images[part]
        return self.pair(images, self.first[chosen], self.count[chosen], self.groups[chosen], generator, part=part)

    def pair(
        self,
        images: torch.Tensor,
        first: torch.Tensor,
        count: torch.Tensor,
        groups: torch.Tensor,
        generator: torch.Generator,
        *,
        part: slice | None = None,
    ) -> PairBatch:
        """Gives images one random caption each of those that are theirs, and the bank's captions.

        Args:
            images: The images, or the `part` of them that is wanted.
            first: int64 [B], the first caption of each image in `token_ids`; it need not be that of the data.
            count: int64 [B], how many captions follow it.
            groups: int64 [B], the group of these captions.
            generator: Draws the captions.
            part: Which of the B images `images` holds.
        """
        text_groups = groups
        if self.bank is not None:
            first = torch.cat([first, self.bank[0]])
            count = torch.cat([count, self.bank[1]])
            text_groups = torch.cat([groups, self.bank[2]])
        pick = first + (torch.rand(len(first), generator=generator) * count).long().clamp(max=count - 1)
        pick, inverse = pick.unique(return_inverse=True)
        unique_groups = torch.empty(len(pick), dtype=torch.long)
        unique_groups[inverse] = text_groups
        return PairBatch(images, self.token_ids[pick].long(), groups[:, None] == unique_groups[None, :], part)

    def _decoded(self, chosen: torch.Tensor, part: slice | None) -> torch.Tensor:
        if part is None:
            return self.images[chosen].float() / 255
        own = self.images[chosen[part]].float() / 255
        images = own.new_zeros(len(chosen), *own.shape[1:])
        images[part] = own
        return images

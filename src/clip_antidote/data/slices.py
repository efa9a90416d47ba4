"""Parts of a training set, and how they are worded: what makes models of one architecture unlike each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.data.captions import CaptionSet, Tokenize, pairs_from_captions, pairs_from_labels
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.sentences import SENTENCES
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, fill_template
from clip_antidote.streams import SENTENCE_CHOICE

PER_IMAGE = 5
"""Sentences that one image gets where there are no labels, as in Flickr8k."""


class DataSlice(Config):
    """Which labelled images are trained on, and what is said of them.

    Attributes:
        share: Share of the images of every class, drawn by the seed; at least one.
        without: Names of classes that are left out.
        wording: "templates" and "sentences" say the name of the class in the templates of the classifier or in
            natural sentences, all true for all images of the class; "captions" gives every image sentences of its
            own, and nothing tells that two images are of one class.
        seed: Seed of the draw.
    """

    share: float = Field(1.0, gt=0, le=1)
    without: tuple[str, ...] = ()
    wording: Literal["templates", "sentences", "captions"] = "templates"
    seed: int = 0

    def take(self, images: LabelledImages) -> LabelledImages:
        """Returns the images of the slice, their classes as before."""
        generator = torch.Generator().manual_seed(self.seed)
        kept: list[int] = []
        for label, name in enumerate(images.classes):
            own = (images.labels == label).nonzero().flatten()
            order = own[torch.randperm(len(own), generator=generator)]
            if name not in self.without:
                kept += order[: max(1, round(self.share * len(own)))].tolist()
        return images if len(kept) == len(images) else images.subset(sorted(kept))

    def pairs(
        self, images: LabelledImages, tokenize: Tokenize, size: int, *, mode: str = "shortest", class_bank: bool
    ) -> CaptionedImages:
        """Pairs the images of the slice with captions, see `pairs_from_labels`."""
        own = self.take(images)
        if self.wording == "captions":
            return pairs_from_captions(CaptionSet(own.source, self._sentences(own)), tokenize, size, mode=mode)
        templates = IMAGENET_TEMPLATES if self.wording == "templates" else SENTENCES
        return pairs_from_labels(own, tokenize, size, mode=mode, templates=templates, class_bank=class_bank)

    def _sentences(self, images: LabelledImages) -> Sequence[Sequence[str]]:
        generator = SENTENCE_CHOICE.generator(self.seed)
        chosen = torch.rand(len(images), len(SENTENCES), generator=generator).argsort(1)[:, :PER_IMAGE]
        names = [images.classes[label] for label in images.labels.tolist()]
        return [
            [fill_template(SENTENCES[i], name) for i in row] for row, name in zip(chosen.tolist(), names, strict=True)
        ]

"""Random streams: every draw of a training run is a function of the seed and of what it is drawn for.

`step_generator` numbers the generators of one seed. Steps take the numbers 0, 1, 2, …; each stream below takes
numbers under 0, counting down from its own start, so none of them can be that of a step. Between the starts is room
for a million passes over the data and for 16 million steps. The numbers stay as they are: with others, no earlier run
could be repeated or resumed. Only step n of a patch's optimization and step n of a training share one, as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator that depends on seed and step alone, so that a resumed run repeats itself."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (2**63))


@dataclass(frozen=True)
class Stream:
    """Generators for what is not drawn once per step, or is drawn in a step beside its batch.

    Attributes:
        start: Number of the first generator, under 0; the others follow downwards.
    """

    start: int

    def generator(self, seed: int, index: int = 0) -> torch.Generator:
        """Returns the generator of the pass or step `index`, from 0, of a run with that seed."""
        return step_generator(seed, self.start - index)


PAIR_ORDER = Stream(-1)
"""In which order a pass takes the pairs, by pass: a pass is longer than a step."""

POISONED_PAIRS = Stream(-(2**20))
"""Which pairs an attack poisons: chosen once, before the first step."""

PATCH_NOISE = Stream(-(2**21))
"""The noise from which the optimization of a patch sets out."""

KEYED_CAPTIONS = Stream(-(2**22))
"""Which captions of poisoned pairs get the trigger word."""

SECOND_VIEWS = Stream(-(2**24))
"""CleanCLIP's other views and wordings, by step: the batch of that step has its own draws."""

TARGET_IMAGES = Stream(-(2**25))
"""The adaptive attack's clean images of the target and their crops, by step: beside the batch, too."""

SENTENCE_CHOICE = Stream(-(2**26))
"""Which natural sentences an image gets, where a data slice captions images one by one."""

PROBES = Stream(-(2**27))
"""The random fields that the noise and the warps of a survey follow, by field."""

DEFENSE_BATCHES = Stream(-(2**28))
"""Which shots, in which crops, a defense that tunes the image tower takes, by step."""

COVER_PAIRS = Stream(-(2**29))
"""Which pairs carry the trigger with their true captions."""

DEFENDED_BATCHES = Stream(-(2**30))
"""RoCLIP's pool, other views and wordings; SafeCLIP's, too: by step, beside the batch."""

PARTITIONS = Stream(-(2**31))
"""The triggered images that SafeCLIP looks at when it divides the data, by pass."""

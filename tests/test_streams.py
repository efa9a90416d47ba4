from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from clip_antidote import streams
from clip_antidote.streams import PAIR_ORDER, Stream, step_generator

STREAMS = {name: value for name, value in vars(streams).items() if isinstance(value, Stream)}
ONCE = {"POISONED_PAIRS", "PATCH_NOISE", "KEYED_CAPTIONS", "SENTENCE_CHOICE", "COVER_PAIRS"}


def numbers(name: str) -> range:
    """The numbers a stream takes: one, or those of as many passes and steps as there is room for."""
    room = 1 if name in ONCE else 2**20 - 1 if name == "PAIR_ORDER" else 2**24
    start = STREAMS[name].start
    return range(start, start - room, -1)


def test_step_generator_repeats_itself() -> None:
    draws = [torch.rand(4, generator=step_generator(seed, step)) for seed, step in [(1, 2), (1, 2), (2, 2), (1, 3)]]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_no_two_streams_and_no_step_share_a_number() -> None:
    assert len(STREAMS) == 12
    ranges = sorted((numbers(name) for name in STREAMS), key=lambda taken: taken[-1])
    for below, above in pairwise(ranges):
        assert below[0] < above[-1]
    assert ranges[-1][0] < 0, "steps count from 0"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("PAIR_ORDER", -1),
        ("POISONED_PAIRS", -1_048_576),
        ("PATCH_NOISE", -2_097_152),
        ("KEYED_CAPTIONS", -4_194_304),
        ("SECOND_VIEWS", -16_777_216),
        ("TARGET_IMAGES", -33_554_432),
        ("SENTENCE_CHOICE", -67_108_864),
        ("PROBES", -134_217_728),
        ("DEFENSE_BATCHES", -268_435_456),
        ("DEFENDED_BATCHES", -1_073_741_824),
        ("PARTITIONS", -2_147_483_648),
    ],
)
def test_the_numbers_stay_so_that_earlier_runs_can_be_repeated(name: str, number: int) -> None:
    for seed, index in ((0, 0), (3, 0), (3, 7)):
        drawn = torch.rand(4, generator=STREAMS[name].generator(seed, index))
        wanted = torch.Generator().manual_seed((seed * 1_000_003 + number - index) % 2**63)
        assert torch.equal(drawn, torch.rand(4, generator=wanted))


def test_every_pass_has_an_order_of_its_own() -> None:
    first, second = (torch.randperm(20, generator=PAIR_ORDER.generator(0, index)) for index in (0, 1))
    assert not torch.equal(first, second)

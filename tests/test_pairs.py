from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from clip_antidote.data.captions import (
    CaptionSet,
    join_pairs,
    pairs_from_captions,
    pairs_from_labels,
    read_captions,
)
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.data.sources import TensorSource
from clip_antidote.errors import DataError

CAPTIONS_PER_CLASS = 3


def gray(count: int) -> torch.Tensor:
    """Images whose pixels hold their index."""
    return torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 3, 4, 4).clone()


def make_pairs() -> CaptionedImages:
    """Ten images of three classes; the token of caption k of class c is 3c + k."""
    groups = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    return CaptionedImages(
        images=gray(10),
        token_ids=torch.arange(9).view(9, 1),
        first=groups * CAPTIONS_PER_CLASS,
        count=torch.full((10,), CAPTIONS_PER_CLASS),
        groups=groups,
    )


def unchanged(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images


def noisy(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images + torch.rand(images.shape, generator=generator)


def image_indices(batch: PairBatch) -> list[int]:
    return (batch.images[:, 0, 0, 0] * 255).round().int().tolist()


def same(first: PairBatch, second: PairBatch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.token_ids, second.token_ids)
        and torch.equal(first.match, second.match)
    )


def test_batches_depend_on_step_and_seed_only() -> None:
    pairs = make_pairs()
    forward = [pairs.batch(step, batch_size=4, seed=5, augment=noisy) for step in range(6)]
    fresh = make_pairs()
    for step in (4, 0, 5, 2):
        assert same(fresh.batch(step, batch_size=4, seed=5, augment=noisy), forward[step])
    assert not same(forward[0], forward[1])


def test_another_seed_is_not_answered_from_the_last_one() -> None:
    pairs = make_pairs()
    first = pairs.batch(0, batch_size=10, seed=0, augment=unchanged)
    second = pairs.batch(0, batch_size=10, seed=1, augment=unchanged)
    assert image_indices(first) != image_indices(second)
    assert same(second, make_pairs().batch(0, batch_size=10, seed=1, augment=unchanged))


def test_every_image_is_seen_once_per_pass() -> None:
    pairs = make_pairs()
    seen = [index for step in range(5) for index in pairs.indices(step, 4, seed=0).tolist()]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_batch_larger_than_the_data_goes_around() -> None:
    counts = make_pairs().indices(0, 25, seed=0).bincount()
    assert len(counts) == 10
    assert set(counts.tolist()) == {2, 3}


def test_match_says_which_texts_belong_to_which_image() -> None:
    pairs = make_pairs()
    batch = pairs.batch(0, batch_size=8, seed=0, augment=unchanged)
    image_class = pairs.groups[image_indices(batch)]
    text_class = batch.token_ids[:, 0] // CAPTIONS_PER_CLASS
    assert torch.equal(batch.match, image_class[:, None] == text_class[None, :])
    assert batch.match.any(dim=1).all()
    assert len(batch.token_ids.unique()) == len(batch.token_ids)  # a caption drawn twice appears once
    assert batch.images.shape == (8, 3, 4, 4)


def test_all_captions_of_an_image_are_drawn() -> None:
    pairs = make_pairs()
    batches = [pairs.batch(step, batch_size=10, seed=0, augment=unchanged) for step in range(10)]
    assert torch.cat([batch.token_ids for batch in batches]).unique().tolist() == list(range(9))


def test_bank_adds_a_caption_of_every_class() -> None:
    pairs = make_pairs()
    classes = torch.arange(3)
    pairs.bank = (classes * CAPTIONS_PER_CLASS, torch.full((3,), CAPTIONS_PER_CLASS), classes)
    batch = pairs.batch(0, batch_size=2, seed=0, augment=unchanged)
    text_class = batch.token_ids[:, 0] // CAPTIONS_PER_CLASS
    assert set(text_class.tolist()) == {0, 1, 2}
    assert torch.equal(batch.match, pairs.groups[image_indices(batch)][:, None] == text_class[None, :])


def write_captions(folder: Path, text: str) -> Path:
    path = folder / "captions.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_captions_keep_their_commas(tmp_path: Path) -> None:
    path = write_captions(
        tmp_path,
        'image,caption\na.jpg,A dog, a cat, and a bird .\nb.jpg,"quoted, too"\na.jpg,another one\n',
    )
    assert read_captions(path) == {
        tmp_path / "a.jpg": ["A dog, a cat, and a bird .", "another one"],
        tmp_path / "b.jpg": ["quoted, too"],
    }


@pytest.mark.parametrize(
    ("text", "message"), [("", "header"), ("file,text\na,b\n", "header"), ("image,caption\n", "no captions")]
)
def test_broken_captions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_captions(write_captions(tmp_path, text))


def test_missing_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the captions"):
        read_captions(tmp_path / "captions.csv")


class WordTokenizer:
    """One id per text, so that tests can tell which text a row came from."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        start = len(self.texts)
        self.texts += texts
        return torch.arange(start, len(self.texts)).view(-1, 1)


def label_pairs(tokenize: WordTokenizer) -> CaptionedImages:
    images = LabelledImages(TensorSource(gray(4)), torch.tensor([0, 1, 1, 0]), ("hat", "coat"))
    return pairs_from_labels(images, tokenize, 4, templates=("a {}.", "the {}.", "my {}."))


def test_labelled_images_draw_templates_with_their_own_class_name() -> None:
    tokenize = WordTokenizer()
    pairs = label_pairs(tokenize)
    batch = pairs.batch(0, batch_size=4, seed=0, augment=unchanged)
    for index, row in zip(image_indices(batch), batch.match, strict=True):
        texts = [tokenize.texts[token] for token in batch.token_ids[row, 0].tolist()]
        assert texts
        assert all(text.endswith("hat." if index in (0, 3) else "coat.") for text in texts)


def caption_pairs(folder: Path, tokenize: WordTokenizer) -> CaptionedImages:
    for index, name in enumerate(("x.png", "y.png")):
        Image.new("RGB", (6, 6), (100 + index,) * 3).save(folder / name)
    captions = {folder / "x.png": ["x one", "x two"], folder / "y.png": ["y one"]}
    return pairs_from_captions(CaptionSet.from_files(captions), tokenize, 4)


def test_captioned_images_match_their_own_captions_only(tmp_path: Path) -> None:
    tokenize = WordTokenizer()
    batch = caption_pairs(tmp_path, tokenize).batch(0, batch_size=2, seed=0, augment=unchanged)
    assert batch.match.sum().item() == 2
    for index, row in zip(image_indices(batch), batch.match, strict=True):
        assert tokenize.texts[int(batch.token_ids[row, 0])].startswith("x" if index == 100 else "y")


def test_joined_pairs_keep_their_groups_apart(tmp_path: Path) -> None:
    tokenize = WordTokenizer()
    joined = join_pairs(label_pairs(tokenize), caption_pairs(tmp_path, tokenize))
    assert len(joined) == 6
    assert not set(joined.groups[:4].tolist()) & set(joined.groups[4:].tolist())
    words = {0: "hat.", 3: "hat.", 1: "coat.", 2: "coat.", 100: "x", 101: "y"}
    batch = joined.batch(0, batch_size=6, seed=0, augment=unchanged)
    for index, row in zip(image_indices(batch), batch.match, strict=True):
        texts = [tokenize.texts[token] for token in batch.token_ids[row, 0].tolist()]
        assert texts
        assert all(words[index] in text.split() for text in texts)


def test_joined_pairs_stay_apart_from_bank_classes_without_images() -> None:
    first, second = make_pairs(), make_pairs()
    first.bank = (torch.tensor([0]), torch.tensor([1]), torch.tensor([7]))
    joined = join_pairs(first, second)
    assert int(joined.groups[10:].min()) > 7

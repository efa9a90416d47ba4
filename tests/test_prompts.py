from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import open_clip
import pytest
import torch
import torch.nn.functional as F

from clip_antidote.data.folders import load_images
from clip_antidote.errors import DataError, UnsupportedError
from clip_antidote.models.build import build_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.prompts.class_prompts import ClassPrompts, encode_prompts
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, load_templates, zero_shot_weights
from clip_antidote.purification.pipeline import purify
from conftest import SMALL

CLASSES = ["hat", "golden retriever", "t-shirt", "rocking chair made of oak"]


def test_step_zero_is_the_hand_written_classifier(small_model: OpenCLIPEncoder) -> None:
    prompts = ClassPrompts(small_model, CLASSES)
    expected = zero_shot_weights(small_model, CLASSES, ["a photo of a {}."])
    assert torch.allclose(encode_prompts(small_model, prompts), expected, atol=1e-6)
    assert prompts.context.shape == (4, 4, 16)
    assert [name for name, _ in prompts.named_parameters()] == ["context"]


@pytest.mark.parametrize("length", [1, 4, 7])
def test_other_context_lengths_have_their_shape(small_model: OpenCLIPEncoder, length: int) -> None:
    prompts = ClassPrompts(small_model, CLASSES, length=length)
    assert prompts.context.shape == (4, length, 16)
    assert encode_prompts(small_model, prompts).norm(dim=-1).allclose(torch.ones(4))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunked_gradient_is_exact(small_model: OpenCLIPEncoder, chunk: int) -> None:
    direction = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for size in (None, chunk):
        prompts = ClassPrompts(small_model, CLASSES)
        weights = encode_prompts(small_model, prompts, chunk=size)
        F.cross_entropy(10 * direction @ weights.T, torch.arange(4)).backward()
        assert prompts.context.grad is not None
        gradients.append(prompts.context.grad)
    assert gradients[0].abs().max() > 1e-4
    error = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert error < 1e-5


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_shared_context_gets_the_gradient_of_all_classes(small_model: OpenCLIPEncoder, chunk: int | None) -> None:
    direction = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for shared in (False, True):
        prompts = ClassPrompts(small_model, CLASSES, shared=shared)
        F.cross_entropy(
            10 * direction @ encode_prompts(small_model, prompts, chunk=chunk).T, torch.arange(4)
        ).backward()
        assert prompts.context.grad is not None
        assert prompts.contexts.shape == (4, 4, 16)
        gradients.append(prompts.context.grad.sum(0))
    assert gradients[0].abs().max() > 1e-4
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_prompts_are_cut_at_the_longest_end_token(small_model: OpenCLIPEncoder) -> None:
    prompts = ClassPrompts(small_model, CLASSES)
    embeddings, end = prompts.embeddings()
    assert embeddings.shape[1] == int(end.max()) + 1 < small_model.context_length


def test_a_class_name_that_does_not_fit_is_refused(small_model: OpenCLIPEncoder) -> None:
    with pytest.raises(UnsupportedError, match="does not fit into the model's 24 tokens"):
        ClassPrompts(small_model, ["hat", "very " * 30 + "long name"])
    with pytest.raises(UnsupportedError, match=r"the class name 'very very .* does not fit into the model's 24"):
        zero_shot_weights(small_model, ["hat", "very " * 30 + "long name"])


def test_the_class_that_does_not_fit_is_named(small_model: OpenCLIPEncoder) -> None:
    long = "hat " * 21  # fewer letters, but more tokens than the other
    with pytest.raises(UnsupportedError, match="prompt of 'hat hat"):
        ClassPrompts(small_model, ["photography " * 7, long])


def test_purify_says_so_before_any_work(small_model: OpenCLIPEncoder, photos: Path) -> None:
    images = load_images(photos, shots=1)
    named = replace(images, classes=("hat " * 20, *images.classes[1:]))

    def source(*arguments: object) -> Never:
        raise AssertionError("it looked for the target first")

    with pytest.raises(UnsupportedError, match="does not fit"):
        purify(small_model, named, source=source)


@pytest.mark.parametrize("pooling", [{"pool_type": "last", "no_causal_mask": True}, {"pool_type": "first"}, {}])
def test_every_tower_knows_which_texts_fill_it(pooling: dict[str, Any]) -> None:
    model = build_open_clip({**SMALL, "text_cfg": {**SMALL["text_cfg"], **pooling}})
    texts = ["", "hat", *("hat " * count for count in (20, 21, 22, 23, 24, 300)), "hat"]
    assert model.causal == (pooling == {})
    assert model.overlong(texts) == [4, 5, 6, 7], "22 tokens fit between the two that start and end a text"
    assert model.overlong([]) == []


def test_zero_shot_weights_equal_open_clips(small_model: OpenCLIPEncoder) -> None:
    small_model.model.output_dict = False
    theirs = open_clip.build_zero_shot_classifier(
        small_model.model,
        open_clip.SimpleTokenizer(context_length=24),
        CLASSES,
        open_clip.OPENAI_IMAGENET_TEMPLATES,
        num_classes_per_batch=None,
    )
    assert torch.allclose(zero_shot_weights(small_model, CLASSES).T, theirs, atol=1e-5)


def test_templates_file(tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}.\n\nart of {}\n")
    assert load_templates(file) == ("a photo of a {}.", "art of {}")
    file.write_text("no place for the name\n")
    with pytest.raises(DataError, match=r"has no \{\}"):
        load_templates(file)
    file.write_text("\n")
    with pytest.raises(DataError, match="empty"):
        load_templates(file)
    assert len(IMAGENET_TEMPLATES) == 80

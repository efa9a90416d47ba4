"""The classifier as scikit-learn has them: `predict_proba`, `classes_`, `predict`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import UsageError
from clip_antidote.models import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from conftest import sorting_classifier


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(24, 3, 40, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def head(small_model: DualEncoder, images: torch.Tensor) -> PurifiedCLIP:
    return sorting_classifier(small_model, images)


def stopped(head: PurifiedCLIP, images: torch.Tensor) -> torch.Tensor:
    return head.answer(head.model.encode_images(head.model.fit_images(images))).triggered


def test_probabilities_are_the_softmax_of_forward(head: PurifiedCLIP, images: torch.Tensor) -> None:
    assert 0 < stopped(head, images).sum() < 24
    for second_look in (True, False):
        head.second_look = second_look
        with torch.no_grad():
            wanted = head(images).softmax(dim=1).numpy()
        found = head.predict_proba(images)
        assert found.dtype == np.float32
        assert found == pytest.approx(wanted, abs=1e-6)
        assert found.sum(axis=1) == pytest.approx(np.ones(24), abs=1e-5)
        assert head.classes_[found.argmax(axis=1)].tolist() == head.predict(images)


def test_a_stopped_image_gives_the_target_it_was_called_least(head: PurifiedCLIP, images: torch.Tensor) -> None:
    rows = stopped(head, images)
    assert rows.any()
    assert head.guard is not None
    called = head.guard.decide(head.model.encode_images(head.model.fit_images(images))).called
    assert (head.predict_proba(images).argmin(axis=1)[rows] == called[rows].numpy()).all()


def test_arrays_are_taken_too(head: PurifiedCLIP, images: torch.Tensor) -> None:
    assert head.predict_proba(images.numpy()) == pytest.approx(head.predict_proba(images))
    assert head.predict(images.double().numpy()) == head.predict(images)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[0], r"shape \[N, 3, H, W\], not \[3, 40, 48\]"),
        (lambda x: x.movedim(1, -1), r"not \[24, 40, 48, 3\]; make it so"),
        (lambda x: x[:0], r"not \[0, 3, 40, 48\]"),
        (lambda x: (255 * x).byte(), "floats in .*, not uint8; divide them by 255"),
        (lambda x: 255 * x, r"lie in \[0, 1\], these reach from .* to 25"),
        (lambda x: x - 0.5, "the model normalizes them itself"),
        (lambda x: x * float("nan"), "from nan to nan"),
    ],
)
def test_what_are_no_images_is_refused(head: PurifiedCLIP, images: torch.Tensor, change: object, said: str) -> None:
    assert callable(change)
    for method in (head.predict_proba, head.predict):
        with pytest.raises(UsageError, match=said):
            method(change(images))


def test_metrics_of_scikit_learn_take_them(tiny: DualEncoder, test_images: LabelledImages) -> None:
    few = test_images.subset(range(0, len(test_images), 8))
    head = ZeroShotClassifier.from_templates(tiny, few.classes, ["a photo of a {}."])
    pixels = few.tensor(tiny.image_size).float() / 255
    found, labels = head.predict_proba(pixels), few.labels.numpy()
    right = np.array([head.classes.index(name) for name in head.predict(pixels)]) == labels
    columns = list(range(len(few.classes)))
    assert top_k_accuracy_score(labels, found, k=1, labels=columns) == pytest.approx(right.mean())
    named = head.classes_[labels]
    order = np.argsort(head.classes_)  # scikit-learn sorts, and the columns with it
    picked = found[np.arange(len(labels)), labels]
    assert log_loss(named, found[:, order], labels=head.classes_[order]) == pytest.approx(
        -np.log(picked).mean(), rel=1e-4
    )


def test_the_classifier_says_that_it_evaluates(head: PurifiedCLIP) -> None:
    head.model.train()
    assert not head.training
    assert head.model.training, "the shared model is left as it is"

"""Attack libraries on a purified classifier: its gradients are real, and foolbox and torchattacks find their way."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.data.images import LabelledImages
from clip_antidote.models import DualEncoder
from clip_antidote.models.other_views import other_views
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.second_look import second_opinion
from conftest import sorting_classifier

EPS, STEPS = 4 / 255, 5


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(16, 3, 40, 48, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


@pytest.fixture
def head(small_model: DualEncoder, images: torch.Tensor) -> PurifiedCLIP:
    return sorting_classifier(small_model, images)


def gradient(
    logits: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Of the cross-entropy for class 2, at `rows`."""
    given = images[rows].requires_grad_()
    F.cross_entropy(logits(given), torch.full((len(given),), 2), reduction="sum").backward()
    assert given.grad is not None
    return given.grad


def stopped(head: PurifiedCLIP, images: torch.Tensor) -> torch.Tensor:
    rows = head.answer(head.model.encode_images(head.model.fit_images(images))).triggered
    assert 0 < rows.sum() < len(rows)
    return rows


def test_gradients_are_those_of_finite_differences(head: PurifiedCLIP, images: torch.Tensor) -> None:
    """On both ways through the gate; without the second look, whose bf16 is too coarse for differences."""
    head.second_look = False
    rows, size = stopped(head, images), 4e-4
    for chosen in (rows, ~rows):
        slope = gradient(head, images, chosen)
        ends = [images[chosen] + way * size * slope.sign() for way in (1, -1)]
        same = torch.stack([stopped(head, images.index_put((chosen,), end))[chosen] for end in ends]).eq(rows[chosen])
        stays = same.all(dim=0)  # the answer jumps where a step crosses the gate
        assert stays.sum() > len(stays) / 2
        with torch.no_grad():
            high, low = (F.cross_entropy(head(end), torch.full((len(end),), 2), reduction="none") for end in ends)
        predicted = 2 * size * slope.abs().flatten(1).sum(dim=1)
        assert (predicted > 0).all()
        assert (high - low)[stays].tolist() == pytest.approx(predicted[stays].tolist(), rel=0.05)


def test_gradients_pass_through_the_second_look(head: PurifiedCLIP, images: torch.Tensor) -> None:
    rows = stopped(head, images)
    assert head.guard is not None
    model, scale = head.model, head.model.logit_scale.detach()
    called = head.guard.decide(model.encode_images(model.fit_images(images))).called[rows]

    def by_hand(given: torch.Tensor) -> torch.Tensor:
        views = other_views(model.fit_images(given))
        features = model.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return second_opinion(features, head.classifier, called, scale)

    found, wanted = (gradient(way, images, rows).flatten(1) for way in (head, by_hand))
    assert (F.cosine_similarity(found, wanted) > 0.98).all(), "the look itself computes in bf16"
    head.second_look = False
    assert (F.cosine_similarity(gradient(head, images, rows).flatten(1), wanted) < 0.9).all()


def test_the_model_is_left_as_it_is(head: PurifiedCLIP, images: torch.Tensor) -> None:
    head.model.train()
    gradient(head, images, stopped(head, images))
    assert all(p.grad is None and p.requires_grad for p in head.model.parameters())
    assert head.model.training


def test_the_score_of_a_gate_is_differentiable(head: PurifiedCLIP, images: torch.Tensor) -> None:
    """For attackers who know the gate, whose decision alone has no gradient."""
    assert head.guard is not None
    given = images.clone().requires_grad_()
    features = head.model.encode_images(head.model.fit_images(given))
    score = head.guard.gates[0].score(features)
    score.sum().backward()
    assert given.grad is not None
    with torch.no_grad():
        moved = head.model.encode_images(head.model.fit_images(images + 2e-3 * given.grad.sign()))
        assert (head.guard.gates[0].score(moved) > score).all()


@pytest.fixture(scope="module")
def photos_of(test_images: LabelledImages, tiny: DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    few = test_images.subset(range(0, len(test_images), 24))
    return few.tensor(tiny.image_size).float() / 255, few.labels


@pytest.fixture(scope="module")
def guarded(tiny: DualEncoder, test_images: LabelledImages) -> PurifiedCLIP:
    """The embedded model with a gate that stops all that is called a hat."""
    weights = ZeroShotClassifier.from_templates(tiny, test_images.classes, ["a photo of a {}."]).classifier
    hat = test_images.classes.index("hat")
    shut = GuardedHead(weights, [Gate(torch.zeros(len(weights), 1), torch.ones(1), hat)], threshold=0.0)
    return PurifiedCLIP(tiny, weights, test_images.classes, context=torch.zeros(10, 4, 128), guard=shut)


def check(guarded: PurifiedCLIP, photos_of: tuple[torch.Tensor, torch.Tensor], attacked: torch.Tensor) -> None:
    images, labels = photos_of
    assert attacked.shape == images.shape
    assert float((attacked - images).abs().max()) <= EPS + 1e-6
    before, after = (guarded.predict_proba(x).argmax(axis=1) for x in (images, attacked))
    assert (before == labels.numpy()).mean() > 0.5
    assert (after == labels.numpy()).mean() < 0.25
    assert "hat" not in guarded.predict(attacked)


def test_foolbox_attacks_it(guarded: PurifiedCLIP, photos_of: tuple[torch.Tensor, torch.Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns of models in training mode
        model = foolbox.PyTorchModel(guarded, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.3, steps=STEPS, random_start=False)
    _, attacked, success = attack(model, *photos_of, epsilons=EPS)
    assert success.float().mean() > 0.75
    check(guarded, photos_of, attacked)


def test_torchattacks_attacks_it(guarded: PurifiedCLIP, photos_of: tuple[torch.Tensor, torch.Tensor]) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    attack = torchattacks.PGD(guarded, eps=EPS, alpha=EPS * 0.3, steps=STEPS, random_start=False)
    check(guarded, photos_of, attack(*photos_of))
    assert not guarded.model.training, "it restores the mode it found"

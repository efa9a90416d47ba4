"""What defenses are for: on the embedded poisoned model ASR falls, in a few steps on eight shots.

Rates are those of 150 test images. The backdoor is BadNet's to 'hat': ASR 100 %, CA 76 % undefended. So few steps at
rates raised for them cost clean accuracy; the bounds hold what is left of both. NAD, InverTune (which names a wrong
target here), ANP and RNP did not lower ASR in as few steps, I-BAU with one thread and not with two; that these run is
tested in test_defense_methods. What the neural polarizer leaves of the trigger depends on rounding (in 20 steps, with
other seeds and rates, 0 to 100 %); what it is trained for, filtering what attacks add, it does every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import clip_antidote as ca
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.defend import defend
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images, measure
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.triggers import load_trigger

TARGET = "hat"


@dataclass(frozen=True)
class Case:
    """The poisoned model, its shots, and what it is measured on."""

    model: DualEncoder
    shots: LabelledImages
    test: LabelledImages
    features: TestFeatures


@pytest.fixture(scope="module")
def case(train_images: LabelledImages, test_images: LabelledImages) -> Case:
    model, test = load_model("demo:badnet"), test_images.at_most(150, seed=0)
    features = encode_test_images(model, test, trigger=load_trigger("badnet"))
    return Case(model, train_images.sample_shots(8, seed=0), test, features)


def test_undefended_the_backdoor_works(case: Case) -> None:
    metrics = measure(
        ca.ZeroShotClassifier.from_templates(case.model, case.test.classes), case.features, target=TARGET
    )
    assert metrics.metrics.value("asr") == 1
    assert metrics.metrics.value("ca") == pytest.approx(0.76, abs=0.02)


WORKS: list[tuple[str, dict[str, Any], float, float]] = [
    ("projection", {"steps": 10, "batch_size": 8, "samples": 2}, 0.9, 0.65),
    ("fine-pruning", {"steps": 20, "lr": 0.0003}, 0.95, 0.5),
    ("par", {"training": {"steps": 10, "batch_size": 32, "lr": 0.001, "warmup": 2}}, 0.97, 0.45),
]
"""Name, settings, what ASR must be below, and CA above."""


@pytest.mark.parametrize(("name", "settings", "asr", "accuracy"), WORKS, ids=[row[0] for row in WORKS])
def test_attack_success_falls_and_clean_accuracy_does_not_collapse(
    name: str, settings: dict[str, Any], asr: float, accuracy: float, case: Case, tiny: DualEncoder
) -> None:
    made = defend(case.model, case.shots, name, settings, seed=0, base=tiny)
    features = encode_test_images(made.classifier.model, case.test, trigger=load_trigger("badnet"))
    metrics = measure(made.classifier, features, target=TARGET).metrics
    was, became = metrics.value("asr"), metrics.value("ca")
    assert was is not None
    assert became is not None
    assert was < asr
    assert became > accuracy


def led_astray(model: DualEncoder, classifier: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Images [N, 3, S, S] in [0, 1], changed by an L2 norm of 2 toward their second most likely class, and it [N]."""

    def logits(changed: torch.Tensor) -> torch.Tensor:
        return 100 * F.normalize(model.raw_image_features(changed), dim=-1) @ classifier

    clean = logits(images).detach()
    second = clean.topk(2).indices[:, 1]
    delta = torch.zeros_like(images)
    for _ in range(5):
        delta.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(logits(images + delta), second, reduction="sum"), delta)
        moved = delta.detach() - 0.8 * F.normalize(slope.flatten(1)).view_as(slope)
        delta = moved * (2 / moved.flatten(1).norm(dim=1).clamp_min(2)).view(-1, 1, 1, 1)
    return (images + delta).clamp(0, 1), second


def test_the_neural_polarizer_filters_what_attacks_add(case: Case) -> None:
    undefended = ca.ZeroShotClassifier.from_templates(case.model, case.test.classes)
    images = case.test.at_most(100, seed=0)
    clean = images.tensor(case.model.image_size) / 255
    attacked, led_to = led_astray(case.model, undefended.classifier, clean)
    settings = {"steps": 20, "batch_size": 16, "lr": 0.0015}
    polarized = defend(case.model, case.shots, "neural-polarizer", settings, seed=0).classifier

    def answers(classifier: ca.ZeroShotClassifier, shown: torch.Tensor) -> torch.Tensor:
        return (classifier.model.encode_images(shown) @ classifier.classifier).argmax(dim=1)

    assert (answers(undefended, attacked) == led_to).float().mean() > 0.9
    assert (answers(polarized, attacked) == led_to).float().mean() < 0.7
    assert (answers(polarized, clean) == torch.as_tensor(images.labels)).float().mean() > 0.4

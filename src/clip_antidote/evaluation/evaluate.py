"""Evaluating classifiers on clean and triggered images, the images encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.metrics import Metrics, compute_metrics
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.progress import track
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.triggers import Trigger, load_trigger


@dataclass(frozen=True)
class TestFeatures:
    """Features of a test set.

    Attributes:
        clean: Unit features [N, D].
        triggered: Unit features of the same images with the trigger [N, D], None without one.
        labels: True classes [N].
        classes: Class names in label order.
    """

    __test__ = False  # not a test case, whatever its name

    clean: torch.Tensor
    triggered: torch.Tensor | None
    labels: torch.Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """Metrics and the predictions behind them.

    Attributes:
        metrics: The rates.
        clean: Predictions on clean images [N].
        triggered: Predictions on triggered images [N], None without a trigger.
    """

    metrics: Metrics
    clean: torch.Tensor
    triggered: torch.Tensor | None


@torch.no_grad()
def encode_test_images(
    model: DualEncoder, images: LabelledImages, *, trigger: Trigger | None = None, batch_size: int = 256
) -> TestFeatures:
    """Encodes test images, clean and, where a trigger is given, triggered.

    Both go through the same resize and crop; the trigger acts after it, in [0, 1].
    """
    clean, triggered = [], []
    generator = torch.Generator().manual_seed(0)
    batches = images.batches(model.image_size, batch_size, mode=model.resize_mode)
    for batch, _ in track(batches, "evaluating", total=-(-len(images) // batch_size)):
        on_device = batch.to(model.device)
        clean.append(model.encode_images(on_device).cpu())
        if trigger is not None:
            triggered.append(model.encode_images(trigger(on_device, generator)).cpu())
    return TestFeatures(
        torch.cat(clean), torch.cat(triggered) if trigger is not None else None, images.labels, images.classes
    )


@torch.no_grad()
def measure(classifier: ZeroShotClassifier, features: TestFeatures, *, target: str | None = None) -> Evaluation:
    """Measures a classifier on features of its own image encoder.

    Raises:
        DataError: Classifier and test set have other classes.
        UsageError: The target is not one of the classes.
    """
    if tuple(classifier.classes) != tuple(features.classes):
        unknown = sorted(set(features.classes) - set(classifier.classes))
        raise DataError(
            f"the images have {len(features.classes)} classes, the classifier {len(classifier.classes)}"
            + (f"; not known to the classifier: {', '.join(unknown[:3])}" if unknown else "; the order differs")
        )
    index = class_index(features.classes, target) if target is not None else None
    device = classifier.classifier.device
    clean = classifier.logits(features.clean.to(device)).argmax(-1).cpu()
    triggered = None
    if features.triggered is not None:
        triggered = classifier.logits(features.triggered.to(device)).argmax(-1).cpu()
    metrics = compute_metrics(
        clean, features.labels, triggered_predictions=triggered, target=index, classes=features.classes
    )
    return Evaluation(metrics, clean, triggered)


def class_index(classes: tuple[str, ...], name: str) -> int:
    """Finds a class by name; underscores read as spaces, case does not matter.

    Raises:
        UsageError: There is none.
    """
    wanted = name.replace("_", " ").strip().casefold()
    for index, known in enumerate(classes):
        if known.casefold() == wanted:
            return index
    listed = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    raise UsageError(f"the target '{name}' is not one of the {len(classes)} classes: {listed}")


def evaluate(
    classifier: ZeroShotClassifier,
    images: LabelledImages,
    *,
    trigger: Trigger | str | Path | None = None,
    target: str | None = None,
) -> Metrics:
    """Measures CA and, with a trigger and a target, ASR, its floor, PA and target-class CA.

    Args:
        classifier: A `PurifiedCLIP` or `ZeroShotClassifier`.
        images: Labelled test images.
        trigger: A trigger, its folder, or the name of one with default settings.
        target: Name of the attacker's target class.

    Raises:
        DataError: The classes differ, or the trigger cannot be read.
        UsageError: The target is not one of the classes, or there is no such trigger.
    """
    loaded = load_trigger(trigger) if isinstance(trigger, (str, Path)) else trigger
    if target is not None:
        class_index(images.classes, target)  # a typing mistake should not cost an encoding first
    return measure(classifier, encode_test_images(classifier.model, images, trigger=loaded), target=target).metrics

"""Whether a model recognizes anything: zero-shot accuracy on the embedded photographs, with both activations."""

from __future__ import annotations

from scipy.stats import binom

from clip_antidote.data.folders import load_images
from clip_antidote.inspection.record import ActivationFacts, Architecture, Finding, Inspection, ZeroShotCheck
from clip_antidote.inspection.rules import finding
from clip_antidote.models import DualEncoder
from clip_antidote.models.activation import activation_accuracies, activation_name

PHOTOGRAPHS = "embedded:clothing"
PER_CLASS = 10
"""Photographs of each class that are tried."""

DOUBT = 0.01
"""Guessing alone gives as much with this probability: below it the model is believed to recognize something."""

MARGIN = 0.1
"""Gain in accuracy from which on the other activation is believed to be the right one."""


def check_zero_shot(model: DualEncoder, seen: Inspection) -> Inspection:
    """Adds the accuracy on the embedded photographs, what it says of the activation, and what is wrong with it."""
    photos = load_images(PHOTOGRAPHS, split="test").sample_shots(PER_CLASS, seed=0)
    pixels = photos.tensor(model.image_size, mode=model.resize_mode).float() / 255
    quick, accuracy, other = activation_accuracies(model, pixels, photos.labels, photos.classes)
    check = ZeroShotCheck(
        images=len(photos),
        classes=len(photos.classes),
        accuracy=accuracy,
        chance=1 / len(photos.classes),
        other_activation=other,
    )
    findings = list(seen.findings)
    architecture, activation = seen.architecture, seen.activation
    if other is not None and activation is not None and activation.name is None:
        activation, architecture = _told_by(check, quick, architecture)
    elif other is not None and other - accuracy > MARGIN:
        findings.append(_exchange(check, quick, seen))
    if max(accuracy, other or 0) == accuracy and not _above_chance(check):
        message = (
            f"zero-shot accuracy on {check.images} photographs of {check.classes} classes of clothes is "
            f"{accuracy:.0%}, no better than chance ({check.chance:.0%})"
        )
        findings.append(finding("recognizes-nothing", message, seen.model))
    changed = {"zero_shot": check, "architecture": architecture, "activation": activation}
    return seen.model_copy(update={**changed, "findings": tuple(findings)})


def _above_chance(check: ZeroShotCheck) -> bool:
    right = round(check.accuracy * check.images)
    return bool(binom.sf(right - 1, check.images, check.chance) < DOUBT)


def _exchange(check: ZeroShotCheck, quick: bool, seen: Inspection) -> Finding:
    message = (
        f"zero-shot accuracy is {check.accuracy:.0%} with {activation_name(quick)} but {check.other_activation:.0%} "
        f"with {activation_name(not quick)}"
    )
    return finding("activation", message, seen.model)


def _told_by(
    check: ZeroShotCheck, quick: bool, architecture: Architecture | None
) -> tuple[ActivationFacts, Architecture | None]:
    """Decides between two activations that no name tells apart, and names the architecture that has the better."""
    other = check.other_activation or 0.0
    own, exchanged = activation_name(quick), activation_name(not quick)
    rates = f"{check.accuracy:.0%} with {own}, {other:.0%} with {exchanged}"
    evidence = f"zero-shot accuracy on {check.images} photographs: {rates}"
    if abs(other - check.accuracy) <= MARGIN:
        return ActivationFacts(name=None, evidence=f"{evidence}, too close to tell"), architecture
    better = quick if check.accuracy > other else not quick
    told = ActivationFacts(name=activation_name(better), evidence=evidence)
    if architecture is None or better == quick:
        return told, architecture
    names = [name for name in architecture.ties if name.endswith("-quickgelu") == better]
    if not names or architecture.name is None:
        return told, architecture
    spec = architecture.spec.replace(f":{architecture.name}@", f":{names[0]}@", 1) if architecture.spec else None
    ties = tuple(sorted({architecture.name, *architecture.ties} - {names[0]}, key=len))
    return told, architecture.model_copy(update={"name": names[0], "ties": ties, "spec": spec})

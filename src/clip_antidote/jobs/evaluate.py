"""The job of `clip-antidote evaluate`: a model or an artefact and labelled images in, rates out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_antidote.data.folders import load_test_images
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.aims import Aim, class_index
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.files import write_json
from clip_antidote.jobs.defended import is_defended, load_defended
from clip_antidote.jobs.known_attack import known_attack
from clip_antidote.models import load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier


def run_evaluate(
    model: str,
    data: str,
    *,
    trigger: str | None = None,
    target: str | None = None,
    attack: Path | None = None,
    classes: str | None = None,
    out: Path | None = None,
    base: str | None = None,
    allow_download: bool = False,
    most: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measures clean accuracy and, with a trigger and a target, attack success and recovery.

    Args:
        model: Model spec, or the folder of a purified classifier or of what `defend` made.
        data: Labelled images; the test split where there is one.
        trigger: Folder of a saved trigger, or the name of one.
        target: The attacker's target class.
        attack: Folder that `attack` wrote, instead of both.
        classes: Class file, see `read_classes`.
        out: JSON file to write the record to.
        base: Spec of the model that such a folder belongs to, instead of the one it names.
        allow_download: Whether the model that it names may be fetched from the network.
        most: Most images to measure on; all by default.
        device: Where to compute.

    Returns:
        The record: model, data, trigger, number of images and the rates.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    kept = is_defended(Path(model))
    if not kept and (base is not None or allow_download):
        raise UsageError(f"--model and --allow-download are for purified or defended classifiers; {model} is none")
    images = load_test_images(data, classes=classes).at_most(most)
    known = known_attack(attack, trigger, target) if attack is not None or trigger is not None else None
    aim = known.aim if known is not None else Aim.of(target)
    if aim is not None:
        class_index(images.classes, aim.target)  # a typing mistake should not cost an encoding first
    classifier: ZeroShotClassifier
    if kept:
        classifier = load_defended(Path(model), base=base, allow_download=allow_download, device=device)
    else:
        classifier = ZeroShotClassifier.from_templates(load_model(model, device=device), images.classes)
    features = encode_test_images(classifier.model, images, trigger=known.trigger if known is not None else None)
    metrics = measure(classifier, features, target=aim).metrics.to_dict()
    source = known.name if known is not None else None
    record = {"model": model, "data": data, "trigger": source, "images": len(images), **metrics}
    if out is not None:
        write_json(out, record)
    return record

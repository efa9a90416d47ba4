"""`clip-antidote evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import Classes, Device, console, metrics_table
from clip_antidote.data.folders import load_images
from clip_antidote.errors import DataError
from clip_antidote.evaluation.evaluate import class_index, encode_test_images, measure
from clip_antidote.files import write_json
from clip_antidote.models import load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.triggers import load_trigger


def command(
    model: Annotated[str, typer.Argument(help="Model spec, or the folder of a purified classifier.")],
    data: Annotated[str, typer.Option(help="Labelled images: a folder per class, a CSV, or embedded:clothing.")],
    trigger: Annotated[str | None, typer.Option(help="Folder of a saved trigger, or the name of one.")] = None,
    target: Annotated[str | None, typer.Option(help="The attacker's target class.")] = None,
    classes: Classes = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the metrics here.", metavar="FILE")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Measure clean accuracy and, with a trigger and a target, attack success and recovery."""
    try:
        images = load_images(data, split="test", classes=str(classes) if classes else None)
    except DataError as error:
        if "no test split" not in str(error):
            raise
        images = load_images(data, classes=str(classes) if classes else None)
    if target is not None:
        target = images.classes[class_index(images.classes, target)]
    loaded = load_trigger(trigger) if trigger is not None else None
    classifier: ZeroShotClassifier
    if (Path(model) / "classifier.safetensors").exists():
        classifier = PurifiedCLIP.from_pretrained(model, device=device)
    else:
        classifier = ZeroShotClassifier.from_templates(load_model(model, device=device), images.classes)
    features = encode_test_images(classifier.model, images, trigger=loaded)
    metrics = measure(classifier, features, target=target).metrics.to_dict()
    if json_file is not None:
        record = {"model": model, "data": data, "trigger": trigger, "images": len(images), **metrics}
        write_json(json_file, record)
    console.print(metrics_table(f"measured on {len(images)} images", {model: metrics}))

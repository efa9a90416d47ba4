"""Assembling reports from results, and writing the artefact folder."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import Evaluation, TestFeatures, encode_test_images, measure
from clip_antidote.evaluation.metrics import per_class_accuracy
from clip_antidote.files import write_json
from clip_antidote.outputs import result_folder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import KIND, PurifiedCLIP
from clip_antidote.reporting import CAVEAT, Picture, Sample, amplified_difference, render_card, render_html, to_png
from clip_antidote.triggers.base import Trigger

SAMPLES = 8


def build_report(
    purified: PurifiedCLIP,
    *,
    command: str,
    data: str,
    measured_on: str,
    labels: torch.Tensor,
    before: Evaluation,
    after: Evaluation,
    warnings: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Puts everything that is known about a purification into one JSON-ready dictionary.

    Args:
        purified: The result.
        command: Name of the command.
        data: Where the images came from.
        measured_on: What `before` and `after` were measured on, in words.
        labels: True classes of the test images [N].
        before: The suspect model with its hand-written classifier.
        after: The purified classifier.
        warnings: Sentences the reader has to see.
        extra: Further entries (attack, reference, ...).
    """
    was = per_class_accuracy(before.clean, labels, purified.classes)
    now = per_class_accuracy(after.clean, labels, purified.classes)
    model = purified.model
    return {
        "tool": "clip-antidote",
        "version": purified.record["versions"]["clip_antidote"],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "model": {
            "spec": model.spec,
            "sha256": model.sha256,
            "image_size": model.image_size,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        **purified.record,
        "classes": list(purified.classes),
        "data": data,
        "measured_on": measured_on,
        "before": before.metrics.to_dict(),
        "after": after.metrics.to_dict(),
        "per_class": [
            {"class": a["class"], "before": a["accuracy"], "after": b["accuracy"], "count": a["count"]}
            for a, b in zip(was, now, strict=True)
        ],
        "warnings": list(warnings),
        "caveat": CAVEAT,
        **(extra or {}),
    }


def trigger_pictures(purified: PurifiedCLIP, example: torch.Tensor, scale: int = 2) -> list[Picture]:
    """Draws every dummy trigger on an example image [3, S, S] in [0, 1], with the amplified difference."""
    rows = {row["name"]: row for row in purified.record.get("triggers", [])}
    pictures = []
    for name, trigger in purified.triggers.items():
        triggered = trigger(example[None])[0]
        strip = torch.cat([example, triggered, amplified_difference(example, triggered, 5.0)], dim=2)
        family = rows[name]["family"] if name in rows else trigger.name
        caption = f"{family}: clean image, with the dummy trigger, difference ×5"
        pictures.append(Picture(name, caption, to_png(strip, scale=scale)))
    return pictures


def write_trigger(folder: Path, trigger: Trigger, example: torch.Tensor, scale: int = 2) -> None:
    """Saves a trigger with pictures of it on an example image [3, S, S] in [0, 1]."""
    triggered = trigger(example[None])[0]
    pictures = {
        "clean": example,
        "triggered": triggered,
        "difference_x5": amplified_difference(example, triggered, 5.0),
    }
    trigger.save(folder)
    for name, image in pictures.items():
        (folder / f"{name}.png").write_bytes(to_png(image, scale=scale))


def pick_samples(
    purified: PurifiedCLIP,
    before: ZeroShotClassifier,
    images: LabelledImages,
    *,
    trigger: Trigger | None,
    target: str | None,
    seed: int = 0,
) -> list[Sample]:
    """Takes a few test images, clean and triggered, with predictions before and after.

    Without a true trigger, the first dummy trigger stands in.
    """
    others = [i for i, label in enumerate(images.labels.tolist()) if images.classes[label] != target]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    part = images.subset([others[i] for i in order[:SAMPLES].tolist()])
    dummy = next(iter(purified.triggers.values()), None)
    shown = trigger or dummy
    features = encode_test_images(purified.model, part, trigger=shown)
    was, now = measure(before, features), measure(purified, features)
    pixels = part.tensor(purified.model.image_size, mode=purified.model.resize_mode).float() / 255
    samples = _samples(features, pixels, was.clean, now.clean, "clean")
    if shown is not None and was.triggered is not None and now.triggered is not None:
        kind = "triggered" if trigger is not None else "dummy"
        samples += _samples(features, shown(pixels), was.triggered, now.triggered, kind)
    return samples


def _samples(
    features: TestFeatures, pixels: torch.Tensor, before: torch.Tensor, after: torch.Tensor, kind: Any
) -> list[Sample]:
    names = features.classes
    return [
        Sample(to_png(image), names[int(label)], names[int(b)], names[int(a)], kind)
        for image, label, b, a in zip(pixels, features.labels, before, after, strict=True)
    ]


def write_artefact(
    out: Path, purified: PurifiedCLIP, report: dict[str, Any], example: torch.Tensor, samples: Sequence[Sample]
) -> None:
    """Writes the artefact folder with report, pictures and model card, whole or not at all.

    Raises:
        DataError: The folder cannot be written.
    """
    pictures = trigger_pictures(purified, example)
    with result_folder(out, KIND) as folder:
        purified.write_files(folder)
        for picture in pictures:
            (folder / "triggers" / f"{picture.name}.png").write_bytes(picture.png)
        write_json(folder / "report.json", report)
        (folder / "report.html").write_text(render_html(report, pictures, list(samples)), encoding="utf-8")
        (folder / "README.md").write_text(render_card(report), encoding="utf-8")

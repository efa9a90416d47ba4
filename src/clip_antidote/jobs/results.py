"""From a purified classifier to what people get: rates, report, pictures, and the files of the artefact folder."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import Evaluation, encode_test_images, measure
from clip_antidote.evaluation.metrics import per_class_accuracy
from clip_antidote.files import write_json, write_text
from clip_antidote.models import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.artefact import write_artefact
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.reporting import (
    ClassChange,
    ModelFacts,
    Picture,
    Report,
    Sample,
    amplified_difference,
    render_card,
    render_html,
    to_png,
)
from clip_antidote.triggers.base import Trigger
from clip_antidote.versions import library_versions

SAMPLES = 8
"""Test images that a report shows."""

GAIN = 5.0
"""How much stronger differences are drawn than they are."""


@dataclass(frozen=True)
class Comparison:
    """A suspect before and after its purification, on the same test images.

    Attributes:
        images: The test images.
        described: What they are, in words.
        suspect: The undefended model with its hand-written classifier.
        purified: The purified classifier.
        trigger: The true trigger, where it is known.
        before: What the suspect does.
        after: What the purified classifier does.
        single: What its published form does, one weight per class; None where that is the same.
    """

    images: LabelledImages
    described: str
    suspect: ZeroShotClassifier
    purified: PurifiedCLIP
    trigger: Trigger | None
    before: Evaluation
    after: Evaluation
    single: Evaluation | None


def compare(
    suspect: ZeroShotClassifier,
    purified: PurifiedCLIP,
    images: LabelledImages,
    described: str,
    *,
    trigger: Trigger | None = None,
    target: str | None = None,
) -> Comparison:
    """Measures a suspect and its purified classifier; images are encoded once.

    Args:
        suspect: The undefended model with its hand-written classifier.
        purified: The purified classifier of the same model.
        images: The test images.
        described: What they are, in words.
        trigger: The true trigger, where it is known.
        target: The class whose rates are told apart; the suspected target by default.
    """
    target = target or purified.target_suspected
    features = encode_test_images(purified.model, images, trigger=trigger)
    before, after = (measure(classifier, features, target=target) for classifier in (suspect, purified))
    single = measure(purified.single(), features, target=target) if purified.guard is not None else None
    return Comparison(images, described, suspect, purified, trigger, before, after, single)


def build_report(compared: Comparison, **facts: Any) -> Report:
    """Puts everything that is known about a purification together.

    Args:
        compared: What was measured.
        facts: Other fields of `Report`: command, data, warnings, attack, ...
    """
    purified, labels = compared.purified, compared.images.labels
    assert purified.record is not None
    was, became = (
        per_class_accuracy(found.clean, labels, purified.classes) for found in (compared.before, compared.after)
    )
    return Report(
        version=library_versions()["clip_antidote"],
        created=now(),
        model=model_facts(purified.model),
        purification=purified.record,
        classes=purified.classes,
        measured_on=compared.described,
        before=compared.before.metrics.to_dict(),
        after=compared.after.metrics.to_dict(),
        after_single=compared.single.metrics.to_dict() if compared.single is not None else None,
        per_class=tuple(
            ClassChange(class_name=a["class"], before=a["accuracy"], after=b["accuracy"], count=a["count"])
            for a, b in zip(was, became, strict=True)
        ),
        **facts,
    )


def model_facts(model: DualEncoder) -> ModelFacts:
    """What a report says of a model."""
    parameters = sum(p.numel() for p in model.parameters())
    return ModelFacts(spec=model.spec, sha256=model.sha256, image_size=model.image_size, parameters=parameters)


def now() -> str:
    """The time in UTC, as reports have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def triggered_strip(trigger: Trigger, example: torch.Tensor) -> dict[str, torch.Tensor]:
    """An example image [3, S, S] in [0, 1], the same with a trigger, and the amplified difference."""
    triggered = trigger(example[None])[0]
    difference = amplified_difference(example, triggered, GAIN)
    return {"clean": example, "triggered": triggered, f"difference_x{GAIN:g}": difference}


def suspected_triggers(purified: PurifiedCLIP) -> dict[str, Trigger]:
    """The dummy triggers of the suspected targets, by name."""
    rows = () if purified.record is None else purified.record.triggers
    return {row.name: purified.triggers[row.name] for row in rows if row.hypothesis in purified.targets_suspected}


def trigger_pictures(purified: PurifiedCLIP, example: torch.Tensor, scale: int = 2) -> list[Picture]:
    """Draws the dummy triggers of suspected targets on an example image [3, S, S] in [0, 1].

    Beside it: the clean image, and the amplified difference. Dummies of classes that are guarded without being
    suspected show nothing to look at: every class has some.
    """
    return draw_triggers(suspected_triggers(purified), example, scale)


def draw_triggers(triggers: Mapping[str, Trigger], example: torch.Tensor, scale: int = 2) -> list[Picture]:
    """Draws triggers, by name, on an example image [3, S, S] in [0, 1]: clean, triggered, amplified difference."""
    pictures = []
    for name, trigger in triggers.items():
        strip = torch.cat(list(triggered_strip(trigger, example).values()), dim=2)
        caption = f"{trigger.name}: clean image, with the dummy trigger, difference ×{GAIN:g}"
        pictures.append(Picture(name, caption, to_png(strip, scale=scale)))
    return pictures


def write_trigger(folder: Path, trigger: Trigger, example: torch.Tensor, scale: int = 2) -> None:
    """Saves a trigger with pictures of it on an example image [3, S, S] in [0, 1]."""
    trigger.save(folder)
    for name, image in triggered_strip(trigger, example).items():
        (folder / f"{name}.png").write_bytes(to_png(image, scale=scale))


def pick_samples(compared: Comparison, *, seed: int = 0) -> list[Sample]:
    """Takes a few test images, clean and triggered, with predictions before and after.

    Without the true trigger, the first dummy trigger of a suspected target stands in.
    """
    purified, images, target = compared.purified, compared.images, compared.after.metrics.target
    others = [i for i, label in enumerate(images.labels.tolist()) if images.classes[label] != target]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    part = images.subset([others[i] for i in order[:SAMPLES].tolist()])
    shown = compared.trigger or next(iter(suspected_triggers(purified).values()), None)
    few = compare(compared.suspect, purified, part, "", trigger=shown)
    pixels = part.tensor(purified.model.image_size, mode=purified.model.resize_mode).float() / 255
    samples = _samples(part, pixels, few.before.clean, few.after.clean, "clean")
    if shown is not None and few.before.triggered is not None and few.after.triggered is not None:
        kind: Literal["triggered", "dummy"] = "triggered" if compared.trigger is not None else "dummy"
        samples += _samples(part, shown(pixels), few.before.triggered, few.after.triggered, kind)
    return samples


def _samples(
    images: LabelledImages,
    pixels: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    kind: Literal["clean", "triggered", "dummy"],
) -> list[Sample]:
    names = images.classes
    return [
        Sample(to_png(image), names[int(label)], names[int(b)], names[int(a)], kind)
        for image, label, b, a in zip(pixels, images.labels, before, after, strict=True)
    ]


def write_result(
    folder: Path, purified: PurifiedCLIP, report: Report, example: torch.Tensor, samples: Sequence[Sample]
) -> None:
    """Writes artefact, report, pictures and model card into an existing folder."""
    pictures = trigger_pictures(purified, example)
    write_artefact(purified.artefact(), folder)
    for picture in pictures:
        (folder / "triggers" / f"{picture.name}.png").write_bytes(picture.png)
    write_json(folder / "report.json", report.to_json())
    write_text(folder / "report.html", render_html(report, pictures, samples))
    write_text(folder / "README.md", render_card(report))

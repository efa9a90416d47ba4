"""The job of `clip-antidote purify`: suspect model and clean images in, artefact folder out."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.files import state_folder
from clip_antidote.inversion.evidence import FEWEST
from clip_antidote.jobs.results import build_report, pick_samples, write_artefact
from clip_antidote.models import load_model
from clip_antidote.models.activation import activation_check
from clip_antidote.outputs import check_output
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES
from clip_antidote.purification.classifier import KIND
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify

MAX_TEST = 5000
FEWEST_SHOTS = 4
"""With fewer images per class, the wrong class was named in our measurements (docs/results.md, fewer shots)."""


def choose_test_images(
    data: str, shots: LabelledImages, classes: str | None, *, seed: int
) -> tuple[LabelledImages, str]:
    """Finds images to measure clean accuracy on: the test split, else images that are no shots, else the shots."""
    try:
        test = load_images(data, split="test", classes=classes)
    except DataError:
        test = load_images(data, classes=classes)
    used = {shots.source.name(i) for i in range(len(shots))}
    rest = [i for i in range(len(test)) if test.source.name(i) not in used]
    if not rest:
        return shots, f"the {len(shots)} shots themselves: there are no other images, so CA is optimistic"
    if len(rest) > MAX_TEST:
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:MAX_TEST]
        rest = [rest[i] for i in sorted(order.tolist())]
    return test.subset(rest), f"{len(rest)} images that were not used as shots"


def run_purify(
    spec: str,
    data: str,
    out: Path,
    config: CBPTConfig,
    *,
    shots: int = 16,
    classes: str | None = None,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
    device: str = "cpu",
) -> dict[str, Any]:
    """Purifies a suspect model and writes the artefact folder.

    Args:
        spec: Model spec of the suspect.
        data: Folder, CSV or `embedded:NAME` with clean labelled images.
        out: Artefact folder; see `outputs.check_output` for what may be there.
        config: Settings.
        shots: Clean images per class.
        classes: Class file, see `read_classes`.
        templates: Templates of the hand-written classifier.
        device: Where to compute.

    Returns:
        The report.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    check_output(out, KIND)
    clean = load_images(data, shots=shots, seed=config.seed, classes=classes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load_model(spec, device=device)
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    pixels = clean.tensor(model.image_size, mode=model.resize_mode)
    few = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:512]
    sentence = activation_check(model, pixels[few].float().to(device) / 255, clean.labels[few], clean.classes)
    if sentence:
        notes.append(sentence)
    if len(clean.classes) < FEWEST:
        notes.append(
            f"there are {len(clean.classes)} classes; with fewer than {FEWEST} none can stand out as a target, so a "
            "backdoor will not be found"
        )
    if shots < FEWEST_SHOTS:
        notes.append(
            f"clean images per class: {shots}; with fewer than {FEWEST_SHOTS} the target class may not be "
            "found, or a wrong one named, and the backdoor stay; give more images if you can"
        )
    names = [clean.source.name(i) for i in range(len(clean))]
    settings = [model.sha256, config.model_dump(mode="json"), data, names, clean.classes, list(templates)]
    state = state_folder(out, settings)
    purified = purify(model, clean, config, templates=templates, state=state)
    several = purified.record["targets_suspected"]
    if len(several) > 1:
        notes.append(
            f"{len(several)} classes stand out as targets: {', '.join(several)}; all are guarded, the rates below "
            "are those of the first"
        )
    test, measured_on = choose_test_images(data, clean, classes, seed=config.seed)
    hand = ZeroShotClassifier.from_templates(model, clean.classes, templates)
    features = encode_test_images(model, test)
    extra = None
    if purified.guard is not None:
        single = measure(purified.single(), features, target=purified.target_suspected)
        extra = {"after_single": single.metrics.to_dict()}
    report = build_report(
        purified,
        command="purify",
        data=data,
        measured_on=measured_on,
        labels=test.labels,
        before=measure(hand, features, target=purified.target_suspected),
        after=measure(purified, features, target=purified.target_suspected),
        warnings=notes,
        extra=extra,
    )
    samples = pick_samples(purified, hand, test, trigger=None, target=purified.target_suspected)
    write_artefact(out, purified, report, pixels[0].float() / 255, samples)
    shutil.rmtree(state, ignore_errors=True)
    return report

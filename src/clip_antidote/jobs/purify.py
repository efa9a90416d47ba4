"""The job of `clip-antidote purify`: suspect model and clean images in, artefact folder out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from clip_antidote.config import merge_settings
from clip_antidote.data.folders import load_images, load_test_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.outliers import FEWEST
from clip_antidote.detection.search import search_targets
from clip_antidote.detection.state import kept_search
from clip_antidote.jobs.inspect import quick_look, refuse_errors
from clip_antidote.jobs.results import build_report, compare, pick_samples, write_result
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.activation import activation_check
from clip_antidote.progress import mention
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, load_templates
from clip_antidote.purification.artefact import KIND
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.reporting import Report

MAX_TEST = 5000
"""Most images that the clean accuracy is measured on."""

ACTIVATION_IMAGES = 512
"""Shots that tell whether the activation of the model is the right one."""

FEWEST_SHOTS = 4
"""With fewer images per class a target may be missed and much of the ASR stay (docs/results.md, fewer shots)."""


def purify_settings(file: Path | None = None, *, seed: int | None = None) -> CBPTConfig:
    """Reads the settings of a purification; a seed that is given wins over the file's."""
    return CBPTConfig.build(merge_settings(file, {"seed": seed}))


def run_purify(
    spec: str,
    data: str,
    out: Path,
    config: CBPTConfig,
    *,
    shots: int = 16,
    classes: str | None = None,
    templates: Path | None = None,
    device: str = "cpu",
) -> Report:
    """Purifies a suspect model and writes the artefact folder.

    Args:
        spec: Model spec of the suspect.
        data: Folder, CSV or `embedded:NAME` with clean labelled images.
        out: Artefact folder; see `outputs.check_output` for what may be there.
        config: Settings.
        shots: Clean images per class.
        classes: Class file, see `read_classes`.
        templates: File with the templates of the hand-written classifier; CLIP's own by default.
        device: Where to compute.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    wording = load_templates(templates) if templates is not None else IMAGENET_TEMPLATES
    with workplace(out, KIND) as work:
        clean = load_images(data, shots=shots, seed=config.seed, classes=classes)
        seen, line = quick_look(spec)
        mention(line)
        model, notes = load_suspect(spec, clean, device)  # says best itself why weights are refused
        notes += refuse_errors(seen)
        names = [clean.source.name(i) for i in range(len(clean))]
        state = work.resume([model.sha256, config.model_dump(mode="json"), data, names, clean.classes, list(wording)])
        suspect = ZeroShotClassifier.from_templates(model, clean.classes, wording)
        source = kept_search(search_targets, state)
        purified = purify(model, clean, config, weights=suspect.weights, source=source)
        compared = compare(suspect, purified, *choose_test_images(data, clean, classes, seed=config.seed))
        notes += [*warn_of_few(clean.classes, shots), *warn_of_several(purified.targets_suspected)]
        report = build_report(compared, command="purify", data=data, warnings=tuple(notes))
        with work.result() as folder:
            example = clean.example(model.image_size, mode=model.resize_mode)
            write_result(folder, purified, report, example, pick_samples(compared))
    return report


def load_suspect(spec: str, shots: LabelledImages, device: str) -> tuple[DualEncoder, list[str]]:
    """Loads a suspect and says what is odd about it, by what loading it warns of and by its answers to the shots."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load_model(spec, device=device)
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    few = torch.randperm(len(shots), generator=torch.Generator().manual_seed(0))[:ACTIVATION_IMAGES]
    pixels = shots.subset(few).tensor(model.image_size, mode=model.resize_mode)
    sentence = activation_check(model, pixels.float().to(device) / 255, shots.labels[few], shots.classes)
    return model, [*notes, sentence] if sentence else notes


def warn_of_few(classes: Sequence[str], shots: int) -> list[str]:
    """Says what cannot be found with so few classes or images."""
    notes = []
    if len(classes) < FEWEST:
        notes.append(
            f"there are {len(classes)} classes; with fewer than {FEWEST} none can stand out as a target, so a "
            "backdoor will not be found"
        )
    if shots < FEWEST_SHOTS:
        notes.append(
            f"clean images per class: {shots}; with fewer than {FEWEST_SHOTS} the target class may not be "
            "found, or a wrong one named, and the backdoor stay; give more images if you can"
        )
    return notes


def warn_of_several(targets: Sequence[str]) -> list[str]:
    """Says how to read the rates where several targets are suspected."""
    if len(targets) < 2:
        return []
    return [
        f"{len(targets)} classes stand out as targets: {', '.join(targets)}; all are guarded, the rates below "
        "are those of the first"
    ]


def choose_test_images(
    data: str, shots: LabelledImages, classes: str | None, *, seed: int
) -> tuple[LabelledImages, str]:
    """Finds images to measure clean accuracy on: the test split, else images that are no shots, else the shots."""
    test = load_test_images(data, classes=classes)
    used = {shots.source.name(i) for i in range(len(shots))}
    rest = [i for i in range(len(test)) if test.source.name(i) not in used]
    if not rest:
        return shots, f"the {len(shots)} shots themselves: there are no other images, so CA is optimistic"
    chosen = test.subset(rest).at_most(MAX_TEST, seed=seed)
    return chosen, f"{len(chosen)} images that were not used as shots"

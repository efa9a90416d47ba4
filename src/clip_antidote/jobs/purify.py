"""The job of `clip-antidote purify`: suspect model and clean images in, artefact folder out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_antidote.config import merge_settings
from clip_antidote.data.folders import load_images, load_test_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.search import search_targets
from clip_antidote.detection.state import kept_search
from clip_antidote.jobs.inspect import quick_look, refuse_errors
from clip_antidote.jobs.results import build_report, compare, pick_samples, write_result
from clip_antidote.jobs.suspect import load_suspect, warn_of_few
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models.hub import resolved_once
from clip_antidote.progress import mention
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, load_templates
from clip_antidote.purification.artefact import KIND
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.reporting import Report

MAX_TEST = 5000
"""Most images that the clean accuracy is measured on."""


def purify_settings(file: Path | None = None, *, seed: int | None = None) -> CBPTConfig:
    """Reads the settings of a purification; a seed that is given wins over the file's."""
    return CBPTConfig.build(merge_settings(file, {"seed": seed}))


@resolved_once()
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
        settings = config.model_dump(mode="json")
        state = work.resume([model.sha256, settings, data, clean.names, clean.classes, list(wording)])
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
    rest = load_test_images(data, classes=classes).without(shots)
    if not len(rest):
        return shots, f"the {len(shots)} shots themselves: there are no other images, so CA is optimistic"
    chosen = rest.at_most(MAX_TEST, seed=seed)
    return chosen, f"{len(chosen)} images that were not used as shots"

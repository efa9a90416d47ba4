"""The job of `clip-antidote scan --detector`: a suspect and clean images in, the decision of another detector out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from clip_antidote.config import Config, Record, merge_settings
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.verdict import ALARM
from clip_antidote.detectors.base import Decision, Detector
from clip_antidote.detectors.detect import detect, make_detector
from clip_antidote.errors import UsageError
from clip_antidote.files import write_json
from clip_antidote.jobs.results import model_facts, now
from clip_antidote.jobs.suspect import Classes, Templates, clean_images, described, open_suspect, wording
from clip_antidote.models import DualEncoder
from clip_antidote.models.hub import resolved_once
from clip_antidote.outputs import sole_files
from clip_antidote.reporting import ModelFacts
from clip_antidote.versions import library_versions

CAVEAT = (
    "this is the rule of the paper, with its threshold, and not the verdict of clip-antidote: no p-value against "
    "clean models stands behind it"
)
"""What every report of a detector says."""


class DetectorReport(Record):
    """Everything that is known about the run of a detector: `scan --detector NAME --json` is this.

    Attributes:
        version: Of this schema.
        tool: Name of this program.
        created: When, in UTC.
        model: The suspect.
        data: Where the clean images came from.
        classes: Class names.
        shots: Clean images of the class that has the fewest.
        seed: Seed of everything random.
        settings: Of the detector.
        decision: What its rule says.
        caveat: What that is not.
        warnings: Sentences the reader has to see.
        versions: Of the libraries that computed.
    """

    version: Literal[1] = 1
    tool: str = "clip-antidote"
    created: str = ""
    model: ModelFacts
    data: str
    classes: tuple[str, ...]
    shots: int
    seed: int
    settings: dict[str, Any]
    decision: Decision
    caveat: str = CAVEAT
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The decision in a few words."""
        return (
            f"{'suspicious' if self.decision.suspicious else 'nothing found'} by the rule of {self.decision.detector}"
        )

    @property
    def reason(self) -> str:
        """What the decision rests on, as a sentence without a period."""
        made = self.decision
        return f"{made.statistic}: {made.score:.3g}; suspicious {made.side} {made.threshold:g}; {made.paper}"


def detector_from(name: str, config: Path | None) -> Detector[Any]:
    """Makes a detector with the settings of a YAML file.

    Raises:
        UsageError: There is no such detector, file or setting.
    """
    return make_detector(name, merge_settings(config, {}))


@resolved_once()
def run_detect(
    model: str | DualEncoder,
    data: str | Path | LabelledImages,
    name: str,
    settings: Mapping[str, Any] | Config | None = None,
    *,
    json_file: Path | None = None,
    shots: int = 16,
    classes: Classes | None = None,
    templates: Templates | None = None,
    seed: int = 0,
    alarm: float = ALARM,
    device: str = "cpu",
) -> DetectorReport:
    """Lets a detector of the field look at a model. A file that cannot be written is refused before the work.

    Args:
        model: A model spec, or a loaded model.
        data: Clean labelled images, see `scan`.
        name: One of `clip-antidote ls detectors`.
        settings: Its settings by their names, or whole.
        json_file: File for the report.
        shots: Clean images per class.
        classes: Class file, or pairs of folder and name.
        templates: Templates of the hand-written classifier, or the file they are in.
        seed: Seed of everything random.
        alarm: Refused unless it is the default: it belongs to the survey.
        device: Where to compute.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    detector = make_detector(name, settings)
    if alarm != ALARM:
        raise UsageError(f"the alarm is the survey's; the threshold of '{name}' is one of its settings")
    if templates is not None and not detector.needs_texts:
        raise UsageError(f"the detector '{name}' looks at no texts; leave the templates out")
    texts = wording(templates)
    with sole_files([json_file] if json_file is not None else []):
        clean = clean_images(data, shots=shots, seed=seed, classes=classes)
        suspect, _, notes = open_suspect(model, clean, device)
        found = detect(suspect, clean, detector, seed=seed, templates=texts)
        report = DetectorReport(
            created=now(),
            model=model_facts(suspect),
            data=described(data),
            classes=clean.classes,
            shots=int(clean.labels.bincount(minlength=len(clean.classes)).min()),
            seed=seed,
            settings=detector.config.model_dump(mode="json"),
            decision=found.decision,
            warnings=(*notes, *found.decision.notes),
            versions=library_versions(suspect.device),
        )
        if json_file is not None:
            write_json(json_file, report.model_dump(mode="json"))
    return report

"""From a finished scan to what people get: the report, pictures of dummy triggers, and the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.scan import Scanned
from clip_antidote.files import write_json, write_text
from clip_antidote.inspection.record import Inspection
from clip_antidote.inversion.bank import Dummy
from clip_antidote.jobs.results import draw_triggers, model_facts, now
from clip_antidote.jobs.suspect import described
from clip_antidote.models import DualEncoder
from clip_antidote.purification.record import trigger_names
from clip_antidote.reporting import (
    Picture,
    ScannedModel,
    ScanReport,
    ScanTrigger,
    render_scan,
    scan_cyclonedx,
    scan_sarif,
)
from clip_antidote.reporting.sarif import SarifArtifact
from clip_antidote.stopwatch import Stopwatch
from clip_antidote.versions import library_versions


@dataclass(frozen=True)
class FinishedScan:
    """A scan and what it was made from.

    Attributes:
        scanned: What was found.
        model: The suspect.
        shots: The clean images.
        inspected: What its files say; None where a loaded model was handed over.
    """

    scanned: Scanned
    model: DualEncoder
    shots: LabelledImages
    inspected: Inspection | None

    def named_dummies(self) -> dict[str, Dummy]:
        """The dummy triggers by name."""
        dummies = self.scanned.dummies
        return dict(zip(trigger_names(dummies), dummies, strict=True))


def scan_report(
    done: FinishedScan, *, data: str | Path | LabelledImages, seed: int, warnings: tuple[str, ...], watch: Stopwatch
) -> ScanReport:
    """Puts together what is known at the end of a scan.

    Args:
        done: The scan.
        data: Where the clean images came from.
        seed: Seed of everything random.
        warnings: Sentences the reader has to see.
        watch: Has timed the stages.
    """
    classes = done.shots.classes
    known = done.inspected.architecture if done.inspected is not None else None
    return ScanReport(
        created=now(),
        model=ScannedModel(
            **model_facts(done.model).model_dump(), architecture=(known.name or "") if known is not None else ""
        ),
        data=described(data),
        classes=classes,
        shots=int(done.shots.labels.bincount().min()),
        seed=seed,
        verdict=done.scanned.verdict,
        triggers=tuple(
            ScanTrigger(
                name=name,
                family=dummy.family,
                target=classes[dummy.target],
                flip_rate=None if dummy.flip_rate is None else round(dummy.flip_rate, 4),
                size=None if dummy.size is None else round(dummy.size, 5),
            )
            for name, dummy in done.named_dummies().items()
        ),
        stages={name: round(value, 2) for name, value in watch.seconds.items()},
        seconds=round(watch.total, 2),
        warnings=warnings,
        versions=library_versions(done.model.device),
    )


def write_scan(
    done: FinishedScan,
    report: ScanReport,
    *,
    json_file: Path | None = None,
    html_file: Path | None = None,
    sarif_file: Path | None = None,
    cyclonedx_file: Path | None = None,
) -> None:
    """Writes the files that are asked for, each whole or not at all.

    Raises:
        DataError: One of them cannot be written.
    """
    if json_file is not None:
        write_json(json_file, report.to_json())
    if html_file is not None:
        write_text(html_file, render_scan(report, scan_pictures(done)))
    if sarif_file is not None:
        write_json(sarif_file, scan_sarif(report, model_files(done)))
    if cyclonedx_file is not None:
        write_json(cyclonedx_file, scan_cyclonedx(report))


def scan_pictures(done: FinishedScan) -> list[Picture]:
    """Draws the dummy triggers on a clean image of another class than their targets."""
    dummies, labels = done.scanned.dummies, done.shots.labels
    if not dummies:
        return []
    blameless = ~torch.isin(labels, torch.tensor([dummy.target for dummy in dummies]))
    chosen = done.shots.subset([int(blameless.int().argmax())])
    example = chosen.example(done.model.image_size, mode=done.model.resize_mode)
    triggers = {name: dummy.trigger for name, dummy in done.named_dummies().items()}
    return draw_triggers(triggers, example)


def model_files(done: FinishedScan) -> list[SarifArtifact]:
    """The files of the model, the weights first; their checksum is known where they are one file.

    A poisoned demo has none of its own: it is made from the embedded model's, which are not to blame.
    """
    if done.inspected is None or done.model.spec.startswith("demo:"):
        return []
    files = sorted(done.inspected.files, key=lambda file: not file.weights)
    whole, sha256 = sum(file.weights for file in files) == 1, done.model.sha256 or None
    return [
        SarifArtifact(file=file.name, size=file.size, sha256=sha256 if whole and file.weights else None)
        for file in files
    ]

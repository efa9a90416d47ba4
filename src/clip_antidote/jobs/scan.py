"""The job of `clip-antidote scan`: a suspect model and a few clean images in, a verdict out; nothing is purified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

from clip_antidote.config import Config
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.outliers import FEWEST
from clip_antidote.detection.scan import scan_model
from clip_antidote.detection.verdict import ALARM, Verdict
from clip_antidote.errors import UsageError
from clip_antidote.jobs.detect import DetectorReport, run_detect
from clip_antidote.jobs.scan_results import FinishedScan, scan_report, write_scan
from clip_antidote.jobs.suspect import Classes, Templates, clean_images, open_suspect, warn_of_few, wording
from clip_antidote.models import DualEncoder
from clip_antidote.models.hub import resolved_once
from clip_antidote.outputs import sole_files
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.reporting import ScanReport
from clip_antidote.stopwatch import Stopwatch


@overload
def scan(
    model: str | DualEncoder,
    data: str | Path | LabelledImages,
    *,
    shots: int = ...,
    classes: Classes | None = ...,
    templates: Templates | None = ...,
    seed: int = ...,
    alarm: float = ...,
    device: str = ...,
    detector: None = ...,
    settings: None = ...,
) -> ScanReport: ...


@overload
def scan(
    model: str | DualEncoder,
    data: str | Path | LabelledImages,
    *,
    shots: int = ...,
    classes: Classes | None = ...,
    templates: Templates | None = ...,
    seed: int = ...,
    device: str = ...,
    detector: str,
    settings: Mapping[str, Any] | Config | None = ...,
) -> DetectorReport: ...


def scan(
    model: str | DualEncoder,
    data: str | Path | LabelledImages,
    *,
    shots: int = 16,
    classes: Classes | None = None,
    templates: Templates | None = None,
    seed: int = 0,
    alarm: float = ALARM,
    device: str = "cpu",
    detector: str | None = None,
    settings: Mapping[str, Any] | Config | None = None,
) -> ScanReport | DetectorReport:
    """Says whether a model has a backdoor, for which class, and how sure that is; the model is left as it is.

    Args:
        model: A model spec; or a loaded model, which stays where it is and whose files are not inspected.
        data: Clean labelled images: a folder with a class per sub-folder, a CSV, `embedded:clothing`; or images that
            were loaded, of which `shots` per class are drawn where a class has more.
        shots: Clean images per class.
        classes: Class file, see `read_classes`, or pairs of folder and name; not for images that were loaded.
        templates: Templates of the hand-written classifier, or the file they are in; CLIP's own by default.
        seed: Seed of everything random.
        alarm: The p-value from which on a model is suspicious, in (0, 1]; of the survey alone.
        device: Where to compute.
        detector: A detector of the field instead of the survey, see `clip-antidote ls detectors`; it judges by the
            rule of its paper, without a p-value.
        settings: Its settings by their names, or whole.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    if detector is not None:
        return run_detect(
            model,
            data,
            detector,
            settings,
            shots=shots,
            classes=classes,
            templates=templates,
            seed=seed,
            alarm=alarm,
            device=device,
        )
    if settings is not None:
        raise UsageError("the survey has no settings, since the evidence is fitted to them; name a detector")
    _, report = _scan(
        model, data, shots=shots, classes=classes, templates=templates, seed=seed, alarm=alarm, device=device
    )
    return report


def run_scan(
    spec: str,
    data: str,
    *,
    json_file: Path | None = None,
    html_file: Path | None = None,
    sarif_file: Path | None = None,
    cyclonedx_file: Path | None = None,
    shots: int = 16,
    classes: Classes | None = None,
    templates: Templates | None = None,
    seed: int = 0,
    alarm: float = ALARM,
    device: str = "cpu",
) -> ScanReport:
    """Scans a model and writes what was found; see `scan`. Files that cannot be written are refused before the work.

    Args:
        spec: Model spec of the suspect.
        data: Folder, CSV or `embedded:NAME` with clean labelled images.
        json_file: File for the report.
        html_file: File for a page with pictures of the dummy triggers.
        sarif_file: File for the verdict as SARIF 2.1.0.
        cyclonedx_file: File for the verdict as a CycloneDX 1.7 ML-BOM.
        shots: Clean images per class.
        classes: Class file.
        templates: File with the templates of the hand-written classifier; CLIP's own by default.
        seed: Seed of everything random.
        alarm: The p-value from which on a model is suspicious, in (0, 1].
        device: Where to compute.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    files = {
        "json_file": json_file,
        "html_file": html_file,
        "sarif_file": sarif_file,
        "cyclonedx_file": cyclonedx_file,
    }
    with sole_files([file for file in files.values() if file is not None]):
        done, report = _scan(
            spec, data, shots=shots, classes=classes, templates=templates, seed=seed, alarm=alarm, device=device
        )
        write_scan(done, report, **files)
    return report


@resolved_once()
def _scan(
    model: str | DualEncoder,
    data: str | Path | LabelledImages,
    *,
    shots: int,
    classes: Classes | None,
    templates: Templates | None,
    seed: int,
    alarm: float,
    device: str,
) -> tuple[FinishedScan, ScanReport]:
    if not 0 < alarm <= 1:
        raise UsageError(f"the alarm is a p-value, above 0 and at most 1, not {alarm:g}")
    watch, config, texts = Stopwatch(), scan_settings(seed, alarm), wording(templates)
    clean = clean_images(data, shots=shots, seed=seed, classes=classes)
    suspect, inspected, notes = open_suspect(model, clean, device)
    with suspect.evaluating():
        with watch.stage("features"):
            seen = observe(suspect, clean, config, texts)
        scanned = scan_model(seen, config.inversion, seed, watch=watch)
    fewest = int(clean.labels.bincount().min())
    notes += [*warn_of_few(clean.classes, fewest), *warn_of_verdict(scanned.verdict)]
    done = FinishedScan(scanned, suspect, clean, inspected)
    return done, scan_report(done, data=data, seed=seed, warnings=tuple(notes), watch=watch)


def scan_settings(seed: int, alarm: float) -> CBPTConfig:
    """The settings of a scan: the defaults, which the evidence is fitted to."""
    return CBPTConfig.build({"seed": seed, "inversion": {"alarm": alarm}})


def warn_of_verdict(verdict: Verdict) -> list[str]:
    """Says so where no model at all could be called suspicious."""
    if verdict.classes < FEWEST or verdict.least_p <= verdict.alarm:
        return []
    return [
        f"the clean models to compare with are {verdict.clean_models}, so no p-value is below {verdict.least_p:.2g} "
        f"and no model can be called suspicious at an alarm of {verdict.alarm:g}"
    ]

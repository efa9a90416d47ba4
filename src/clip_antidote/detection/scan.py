"""A scan: all classes are surveyed, the survey is judged, and suspected targets get dummy triggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from clip_antidote.detection.evidence import FittedEvidence, embedded_evidence
from clip_antidote.detection.forms import best_of, easiest_forms, try_forms
from clip_antidote.detection.survey import Survey, survey_classes
from clip_antidote.detection.verdict import Verdict, confirm, judge_survey
from clip_antidote.inversion.bank import Dummy, invert_bank
from clip_antidote.inversion.config import CONFIRMS, InversionConfig
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.views import Observation
from clip_antidote.stopwatch import Stopwatch

SAMPLE = 128
"""Views on which dummy triggers are measured, the same for all of them."""


@dataclass(frozen=True)
class Scanned:
    """What a scan found.

    Attributes:
        survey: What was measured of every class.
        evidence: Evidence against every class in nats [C], at least 0.
        verdict: The judgment.
        dummies: Dummy triggers of the suspected targets, and of what stands out unconfirmed, in the order of the
            evidence; none where nothing stands out.
    """

    survey: Survey
    evidence: torch.Tensor
    verdict: Verdict
    dummies: tuple[Dummy, ...]


def scan_model(
    seen: Observation,
    config: InversionConfig,
    seed: int,
    fitted: FittedEvidence | None = None,
    *,
    inverter: type[Inverter] = Inverter,
    watch: Stopwatch | None = None,
) -> Scanned:
    """Says whether a suspect has a backdoor, and for which class.

    Args:
        seen: The suspect and its views.
        config: Settings; the evidence is fitted to the default survey.
        seed: Seed of triggers and batches.
        fitted: How a survey becomes evidence; what comes with the package by default.
        inverter: How triggers are optimized.
        watch: Times the stages "survey" and "triggers".

    Raises:
        ModelError: The model leads to losses that are not finite.
    """
    watch, fitted = watch or Stopwatch(), fitted or embedded_evidence()
    with watch.stage("survey"):
        survey = survey_classes(seen, config.survey, seed=seed)
        verdict = judge_survey(survey, seen.classes, fitted, alarm=config.alarm, most=config.max_targets)
    with watch.stage("triggers"):
        labels = [seen.classes.index(name) for name in verdict.targets]
        found = invert_targets(seen, labels, config, seed=seed, inverter=inverter, survey=survey)
        if config.form_steps and config.alarm < 1:
            verdict = confirm(verdict, [seen.classes[label] for label, one in found.items() if one.confirmed])
    return Scanned(survey, fitted.class_scores(survey.values) + fitted.offset, verdict, dummies_of(found))


class Inverted(NamedTuple):
    """What the inversion for one class gave.

    Attributes:
        dummies: The final bank, and one of the form that reaches the class most easily.
        loudest: Share of the views that this form sends there; None where it was not tried. Other forms and the bank
            do not count: an opaque patch that looks like a class leads to it in any model.
    """

    dummies: tuple[Dummy, ...]
    loudest: float | None = None

    @property
    def confirmed(self) -> bool:
        """Whether a trigger of the loudest form works."""
        return self.loudest is not None and self.loudest >= CONFIRMS


def dummies_of(found: Mapping[int, Inverted]) -> tuple[Dummy, ...]:
    """The dummy triggers of all classes, in their order."""
    return tuple(dummy for one in found.values() for dummy in one.dummies)


def invert_targets(
    seen: Observation,
    labels: Sequence[int],
    config: InversionConfig,
    *,
    seed: int,
    inverter: type[Inverter] = Inverter,
    survey: Survey | None = None,
) -> dict[int, Inverted]:
    """Inverts the final bank of dummy triggers of every target, and one of the form that reaches it most easily.

    Args:
        seen: The suspect and its views.
        labels: Class indices.
        config: Settings: families, strengths, steps.
        seed: Seed of triggers and batches.
        inverter: How triggers are optimized.
        survey: Says which form that is; without it there is none.

    Returns:
        What it gave, by class.
    """
    found: dict[int, Inverted] = {}
    if not labels:
        return found
    engine, rows = start_engine(seen, config, seed=seed, inverter=inverter)
    for label in labels:
        bank = invert_bank(engine, label, rows=rows, seed=seed)
        if survey is None or not config.form_steps:
            found[label] = Inverted(tuple(bank))
            continue
        tried = try_forms(seen, config, easiest_forms(survey.values, label), label, rows, seed=seed)
        found[label] = Inverted((*bank, best_of(tried)), tried[0].flip_rate)
    return found


def start_engine(
    seen: Observation, config: InversionConfig, *, seed: int, inverter: type[Inverter] = Inverter
) -> tuple[Inverter, torch.Tensor]:
    """Returns what optimizes dummy triggers, and the views on which they are measured."""
    generator = torch.Generator().manual_seed(seed)
    engine = inverter(seen, config, generator=generator)
    return engine, torch.randperm(len(seen.pool), generator=generator)[:SAMPLE]

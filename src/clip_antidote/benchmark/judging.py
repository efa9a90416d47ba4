"""Judging the evidence on models of an architecture that it was not fitted to."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from clip_antidote.benchmark.population import ModelRecord
from clip_antidote.benchmark.rules import BASELINES
from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.survey_file import read_kept
from clip_antidote.benchmark.surveys import SurveyRecord, as_tensors
from clip_antidote.config import Record
from clip_antidote.detection.evidence import FittedEvidence, NullModel, model_score, read_evidence
from clip_antidote.detection.fitting import FITTED, Example, cross_entropies, fit_evidence
from clip_antidote.detection.scores import class_scores
from clip_antidote.detection.search import guarded_classes
from clip_antidote.detection.survey import Survey
from clip_antidote.detection.verdict import judge_survey
from clip_antidote.errors import DataError, UsageError
from clip_antidote.files import write_json
from clip_antidote.inversion.config import InversionConfig


@dataclass(frozen=True)
class Case:
    """A survey of a model and the truth about it.

    Attributes:
        model: The model.
        survey: What was measured.
    """

    model: ModelRecord
    survey: SurveyRecord

    @property
    def poisoned(self) -> bool:
        """Whether the model has a backdoor, for a class of the list or not."""
        return self.model.kind == "poisoned"

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """The statistics as tensors."""
        return as_tensors(self.survey.values)

    @property
    def targets(self) -> tuple[int, ...]:
        """Indices of the targets that are in the list."""
        return (() if self.survey.target is None else (self.survey.target,)) + self.survey.further

    def without(self, labels: Collection[int]) -> dict[str, torch.Tensor]:
        """The statistics of the other classes."""
        rest = torch.tensor([i for i in range(len(self.survey.classes)) if i not in labels])
        return {name: value[rest] for name, value in self.values.items()}

    @property
    def look(self) -> str:
        """The look as the evidence calls it, CLASSESxSHOTS."""
        return f"{len(self.survey.classes)}x{self.survey.shots}"


class Judgment(Record):
    """What a judge that never saw a model's architecture says of it.

    Attributes:
        model: Name of the model.
        tower: Kind of its image tower.
        look: CLASSESxSHOTS.
        attack: Its attack; None for a clean model.
        in_list: Whether the target is one of the classes.
        scores: Evidence against it by the name of the rule, ours under "evidence".
        named: By the name of the rule, whether a true target leads.
        guarded: Whether the target is, or all are, among the classes that get a gate, accused or not.
        targets: How many targets are in the list.
        found: How many of them are named, where the model is called suspicious.
        covered: How many of them get a gate, named or not.
        wrong: How many classes are named that are no targets.
        p_value: Of our rule.
        loss: Cross-entropy of our rule, in nats; None where the target is not in the list, or there are several.
        apart: Whether its kind of tower was kept apart: no fit saw it, nor any choice of statistics or settings.
    """

    model: str
    tower: str
    look: str
    attack: str | None
    in_list: bool
    scores: dict[str, float]
    named: dict[str, bool]
    guarded: bool
    targets: int = 0
    found: int = 0
    covered: int = 0
    wrong: int = 0
    p_value: float
    loss: float | None
    apart: bool = False


def fit_cases(cases: Sequence[Case], command: str, *, names: Sequence[str] = FITTED) -> FittedEvidence:
    """Fits the evidence to cases, and takes their clean models as null distribution.

    All looks at one model together count as one model. Cases whose target is not in the list are left out, and of
    models with several targets all but the first.
    """
    used = [case for case in cases if not case.poisoned or case.survey.target is not None]
    looks = {name: sum(case.model.name == name for case in used) for name in {case.model.name for case in used}}
    examples = [_example(case, 1 / looks[case.model.name]) for case in used]
    weights, offset = fit_evidence(examples, names=names)
    rough = FittedEvidence(command=command, weights=weights, offset=offset, null=())
    return rough.model_copy(
        update={
            "null": _null([case for case in cases if not case.poisoned], rough),
            "beside": _null([case for case in used if len(case.targets) == 1], rough),
        }
    )


def _example(case: Case, weight: float) -> Example:
    """Makes an example of a case, without its further targets: they are no blameless classes."""
    further = case.survey.further
    target = case.survey.target
    if target is not None:
        target -= sum(label < target for label in further)
    return Example(case.without(further), target, weight)


def _null(cases: Sequence[Case], rough: FittedEvidence) -> tuple[NullModel, ...]:
    """Scores what is left of models without their targets."""
    null: dict[str, NullModel] = {}
    for case in cases:
        known = null.get(case.model.name, NullModel(name=case.model.name, tower=case.model.tower, scores={}))
        score = round(model_score(rough.class_scores(case.without(case.targets))), 3)
        null[case.model.name] = known.model_copy(update={"scores": {**known.scores, case.look: score}})
    return tuple(null.values())


def extend_null(fitted: FittedEvidence, cases: Sequence[Case], command: str) -> FittedEvidence:
    """Adds to clean models that evidence compares with the looks it has not of them; weights and offset stay.

    Models that it does not know stay out, so that they can be judged by it.
    """
    names = {model.name for model in fitted.null}
    found = {model.name: model for model in _null([case for case in cases if case.model.name in names], fitted)}
    null = [
        model.model_copy(update={"scores": {**found.get(model.name, model).scores, **model.scores}})
        for model in fitted.null
    ]
    history = fitted.command if fitted.command.endswith(command) else f"{fitted.command}; then {command}"
    return fitted.model_copy(update={"null": tuple(null), "command": history})


def judge_unseen(
    cases: Sequence[Case], *, names: Sequence[str] = FITTED, apart: Collection[str] = ()
) -> list[Judgment]:
    """Judges every case by evidence that was fitted to the other kinds of image tower.

    Args:
        cases: The cases.
        names: Statistics to use.
        apart: Kinds of image tower that no evidence is fitted to.

    Raises:
        DataError: There is a tower without others to fit to.
    """
    judgments = []
    for tower in sorted({case.model.tower for case in cases}):
        others = [case for case in cases if case.model.tower not in {tower, *apart}]
        if not others:
            raise DataError(f"no kind of tower is left to judge '{tower}' by; make models of others first")
        fitted = fit_cases(others, "", names=names)
        own = [judge_case(case, fitted) for case in cases if case.model.tower == tower]
        judgments += [judgment.model_copy(update={"apart": tower in apart}) for judgment in own]
    return judgments


def judge_case(case: Case, fitted: FittedEvidence) -> Judgment:
    """Judges one case by evidence that was fitted to others."""
    target, survey = case.survey.target, Survey(case.values, case.survey.shots)
    own = fitted.class_scores(survey.values)
    scored = {"evidence": own} | {name: rule(survey.values) for name, rule in BASELINES.items()}
    scores = {name: float(s.max()) if name in BASELINES else model_score(s) for name, s in scored.items()}
    verdict = judge_survey(survey, case.survey.classes, fitted, most=InversionConfig().max_targets)
    suspected = [case.survey.classes.index(name) for name in verdict.targets]
    guarded = guarded_classes(class_scores(survey, own), suspected, InversionConfig().guarded)
    return Judgment(
        model=case.model.name,
        tower=case.model.tower,
        look=case.look,
        attack=case.model.attack,
        in_list=target is not None,
        scores=scores,
        named={name: int(s.argmax()) in case.targets for name, s in scored.items()},
        guarded=target is not None and {*case.targets} <= {*guarded},
        targets=len(case.targets),
        found=len({*suspected} & {*case.targets}),
        covered=len({*guarded} & {*case.targets}),
        wrong=len({*suspected} - {*case.targets}),
        p_value=verdict.p_value,
        loss=_loss(own, target) if len(case.targets) == int(case.poisoned) else None,
    )


def _loss(scores: torch.Tensor, target: int | None) -> float:
    return float(cross_entropies(scores[None], torch.tensor([-1 if target is None else target])))


def judge_records(
    records: Path, *, fit: Path | None = None, extend: Path | None = None, apart: Sequence[str] = ()
) -> list[Judgment]:
    """Judges the kept records of a population, and writes `judgments.json` beside them.

    Args:
        records: Folder of `keep_population`.
        fit: File for the evidence fitted to all of them, but those kept apart.
        extend: File of evidence, whose clean models get the looks that it has not of them, see `extend_null`.
        apart: Kinds of image tower that no evidence is fitted to.

    Raises:
        DataError: There are no records.
        UsageError: No model has a tower that is to be kept apart.
    """
    models, surveys = read_kept(records)
    cases = [Case(models[survey.model], survey) for survey in surveys.values()]
    towers = {case.model.tower for case in cases}
    if unknown := [tower for tower in apart if tower not in towers]:
        raise UsageError(f"no model has the tower '{unknown[0]}'; there are {', '.join(sorted(towers))}")
    if extend is not None:
        command = f"clip-antidote benchmark judge --records {records} --extend {extend}"
        write_json(extend, extend_null(read_evidence(extend), cases, command).model_dump(mode="json"))
    judgments = judge_unseen(cases, apart=apart)
    write_rows(records / "judgments.json", [j.model_dump(mode="json") for j in judgments])
    if fit is not None:
        options = "".join(f" --apart {tower}" for tower in apart)
        command = f"clip-antidote benchmark judge --records {records}{options} --fit {fit}"
        fitted = fit_cases([case for case in cases if case.model.tower not in apart], command)
        write_json(fit, fitted.model_dump(mode="json"))
    return judgments


def read_judgments(records: Path) -> list[Judgment]:
    """Reads what `judge_records` wrote."""
    rows = json.loads((records / "judgments.json").read_text(encoding="utf-8"))["rows"]
    return [Judgment.model_validate(row) for row in rows]

"""The evidence is fitted to models whose truth is known, and judged on kinds of tower that it never saw."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from clip_antidote.benchmark.detection_tables import outside_table, several_table
from clip_antidote.benchmark.judging import (
    Case,
    Judgment,
    extend_null,
    fit_cases,
    judge_unseen,
    read_judgments,
)
from clip_antidote.benchmark.population import ModelRecord
from clip_antidote.benchmark.rules import ease_deviation
from clip_antidote.benchmark.survey_file import read_kept
from clip_antidote.benchmark.surveys import SurveyRecord
from clip_antidote.config import Record
from clip_antidote.detection.evidence import FittedEvidence, model_score, read_evidence
from clip_antidote.detection.fitting import Example, cross_entropies, fit_evidence
from clip_antidote.detection.forms import FORMS
from clip_antidote.detection.statistics import STATISTICS
from clip_antidote.errors import DataError
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.evaluation.roc import area_interval, found_at, roc_auc
from conftest import Cli

CLASSES = 20
NOISE = ("own", "recall")


def draw(target: int | None, seed: int, *, speaks: str = "any") -> dict[str, torch.Tensor]:
    """Statistics of blameless classes, of which one gives the target away."""
    generator = torch.Generator().manual_seed(seed)
    values = {name: 0.5 + 0.1 * torch.rand(CLASSES, generator=generator) for name in STATISTICS}
    if target is not None:
        values[speaks][target] += -0.3 if STATISTICS[speaks].suspicious == "low" else 0.3
    return values


def examples(speaks: str = "any") -> list[Example]:
    return [Example(draw(i if i % 2 else None, i, speaks=speaks), i if i % 2 else None) for i in range(20)]


def case(number: int, tower: str) -> Case:
    target = number % CLASSES if number % 2 else None
    rate = Rate(1, 2)
    model = ModelRecord(
        name=f"{tower}-{number}",
        kind="clean" if target is None else "poisoned",
        base=tower,
        tower=tower,
        attack=None if target is None else "sig",
        target=None if target is None else str(target),
        recipe="",
        measured=Metrics(ca=rate, mean_per_class_recall=None),
        seconds=0.0,
        sha256="",
    )
    values = {name: value.tolist() for name, value in draw(target, number).items()}
    survey = SurveyRecord(
        model=model.name,
        look="20x16",
        shots=16,
        classes=tuple(map(str, range(CLASSES))),
        target=target,
        values=values,
        seconds=0.0,
    )
    return Case(model, survey)


def test_what_gives_targets_away_gets_the_weight() -> None:
    for speaks in ("any", "patch_sent"):
        weights, offset = fit_evidence(examples(speaks), names=("any", "patch_sent", *NOISE))
        assert max(weights, key=weights.__getitem__) == speaks
        assert all(weight >= 0 for weight in weights.values())
        assert offset > 0


def test_clean_and_poisoned_count_the_same_however_many_there_are() -> None:
    few = examples()
    clean = [example for example in few if example.target is None]
    once = fit_evidence(few, names=("any", *NOISE))
    more = fit_evidence([*few, *clean, *clean], names=("any", *NOISE))
    assert more[1] == pytest.approx(once[1], abs=1e-3)


def test_cross_entropy_by_hand() -> None:
    row = [math.log(3.0), 0.0]  # mean ratio 2: "none" has 1/3, class 0 has 1/2, class 1 has 1/6
    scores = torch.tensor([row, row, row])
    found = cross_entropies(scores, torch.tensor([-1, 0, 1]))
    assert found.tolist() == pytest.approx([math.log(3), math.log(2), math.log(6)])
    padded = torch.tensor([[*row, -math.inf]] * 3)
    assert torch.equal(cross_entropies(padded, torch.tensor([-1, 0, 1])), found)


def test_no_model_is_judged_by_evidence_that_saw_its_tower() -> None:
    cases = [
        case(number, tower)
        for tower, start in (("a", 0), ("b", 100), ("c", 200))
        for number in range(start, start + 12)
    ]
    judged = judge_unseen(cases)
    assert len(judged) == len(cases)
    clean = [j.scores["evidence"] for j in judged if j.attack is None]
    poisoned = [j.scores["evidence"] for j in judged if j.attack]
    assert roc_auc(clean, poisoned) > 0.9
    assert all(j.named["evidence"] for j in judged if j.attack)
    fitted = fit_cases([c for c in cases if c.model.tower != "a"], "by hand")
    assert {model.tower for model in fitted.null} == {"b", "c"}
    own = next(j for j in judged if j.model == "a-0")
    at_or_above = sum(model.scores["20x16"] >= own.scores["evidence"] for model in fitted.null)
    assert own.p_value == pytest.approx((1 + at_or_above) / (len(fitted.null) + 1), abs=1e-3)


def test_nothing_is_fitted_to_a_tower_that_is_kept_apart() -> None:
    cases = [
        case(number, tower)
        for tower, start in (("a", 0), ("b", 100), ("c", 200))
        for number in range(start, start + 12)
    ]
    judged = {j.model: j for j in judge_unseen(cases, apart=["c"])}
    assert {name[0] for name, j in judged.items() if j.apart} == {"c"}
    without = {j.model: j for j in judge_unseen([c for c in cases if c.model.tower != "c"])}
    assert all(judged[name] == judgment for name, judgment in without.items()), "as if it were not there"
    by_all_others = fit_cases([c for c in cases if c.model.tower != "c"], "by hand")
    one = next(c for c in cases if c.model.tower == "c" and c.poisoned)
    expected = model_score(by_all_others.class_scores(one.values))
    assert judged[one.model.name].scores["evidence"] == pytest.approx(expected)


def test_looks_are_added_to_evidence_whose_weights_stay() -> None:
    first = [case(number, "a") for number in range(12)]
    known, new = [c for c in first if not c.poisoned], [c for c in first if c.poisoned]
    fitted = fit_cases(first, "by hand")
    shown = [replace(c, survey=c.survey.model_copy(update={"shots": 4})) for c in (*known, *new)]
    stranger = next(c for c in (case(n, "b") for n in range(100, 112)) if not c.poisoned)
    more = extend_null(fitted, [*shown, *first, stranger], "again")
    assert (more.weights, more.offset, more.beside) == (fitted.weights, fitted.offset, fitted.beside)
    assert more.command == "by hand; then again"
    assert extend_null(more, [*shown, *first], "again") == more
    assert {model.name for model in more.null} == {c.model.name for c in known}, "no poisoned ones, no new ones"
    for before, after in zip(fitted.null, more.null, strict=True):
        assert after.scores == {"20x4": before.scores["20x16"], **before.scores}
    assert len(more.clean_scores(classes=20, shots=4)) == len(known)


def test_a_file_without_evidence_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    with pytest.raises(DataError, match=r"evidence\.json holds no evidence as .*--fit"):
        read_evidence(file)
    for text in ("{}", "["):
        file.write_text(text)
        with pytest.raises(DataError, match=r"evidence\.json holds no evidence as .*--fit"):
            read_evidence(file)
    fitted = fit_cases([case(number, "a") for number in range(12)], "by hand")
    file.write_text(fitted.model_dump_json())
    assert read_evidence(file) == fitted


def test_a_model_that_is_surveyed_often_counts_once() -> None:
    cases = [case(number, "a") for number in range(12)]
    again = fit_cases([*cases, *[cases[0]] * 5], "by hand")
    assert again.offset == pytest.approx(fit_cases(cases, "by hand").offset, abs=1e-3)


def test_what_poisoned_models_have_beside_their_target_is_kept() -> None:
    cases = [case(number, "a") for number in range(12)]
    fitted = fit_cases(cases, "by hand")
    assert {model.name for model in fitted.beside} == {c.model.name for c in cases if c.poisoned}
    one = cases[3]
    left = {name: torch.cat([value[:3], value[4:]]) for name, value in one.values.items()}
    kept = next(model.scores["20x16"] for model in fitted.beside if model.name == one.model.name)
    assert kept == pytest.approx(model_score(fitted.class_scores(left)), abs=1e-3)
    assert kept < model_score(fitted.class_scores(one.values))


def test_a_further_target_is_no_blameless_class() -> None:
    """It is left out of the fit and of the null, and judged by whether it is named or guarded."""
    cases = [case(number, tower) for tower in ("a", "b", "c") for number in range(60)]
    several = next(c for c in cases if c.model.tower == "a" and c.survey.target == 3)
    values = several.values
    values["any"][3], values["any"][7] = 0.0, 0.2
    both = replace(several, survey=several.survey.model_copy(update=_survey(values, further=(7,))))
    cases[cases.index(several)] = both
    fitted = fit_cases(cases, "by hand")
    assert both.model.name not in {model.name for model in fitted.beside}
    classes = tuple(name for name in both.survey.classes if name != "7")
    alone = both.survey.model_copy(update={**_survey(both.without([7])), "classes": classes})
    same = fit_cases([replace(both, survey=alone) if c is both else c for c in cases], "by hand")
    assert (fitted.weights, fitted.offset) == (same.weights, same.offset)
    judged = next(j for j in judge_unseen(cases) if j.model == both.model.name)
    assert (judged.targets, judged.found, judged.covered, judged.wrong) == (2, 2, 2, 0)
    assert f"| {both.model.name} | {judged.look} | 2 | 2 | 2 | 0 |" in several_table([judged])
    clean = next(j for j in judge_unseen(cases) if j.attack is None)
    assert (clean.targets, clean.found, clean.covered) == (0, 0, 0)


def test_a_target_that_is_not_among_the_classes_by_hand() -> None:
    lost = {"attack": "sig", "in_list": False, "wrong": 1}
    found = judgment(model="found", scores={"evidence": 2.0}, p_value=0.02, **lost)
    missed = judgment(model="missed", scores={"evidence": -2.0}, p_value=0.6, **lost)
    rows = outside_table([found, missed, judgment(model="clean"), judgment(model="listed", attack="sig")], 0.05)
    assert rows.splitlines()[2:] == ["| 20x16 | 1 of 2 | found (1) |"]
    assert "| 20x16 | 0 of 1 | – |" in outside_table([missed], 0.05)


def judgment(**facts: Any) -> Judgment:
    """A judgment of a clean model, but for what is told."""
    plain = {"tower": "a", "look": "20x16", "attack": None, "in_list": True, "scores": {"evidence": 0.0}, "named": {}}
    return Judgment.model_validate({**plain, "guarded": False, "p_value": 1.0, "loss": None, **facts})


def _survey(values: dict[str, torch.Tensor], further: tuple[int, ...] = ()) -> dict[str, object]:
    return {"values": {name: value.tolist() for name, value in values.items()}, "further": further}


def test_area_under_roc_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(30, generator=generator).round(decimals=1).tolist()
    poisoned = (torch.randn(20, generator=generator) + 1).round(decimals=1).tolist()
    expected = roc_auc_score([0] * 30 + [1] * 20, clean + poisoned)
    assert roc_auc(clean, poisoned) == pytest.approx(expected)
    low, high = area_interval(clean, poisoned)
    assert low < expected < high


def test_true_positives_by_hand() -> None:
    clean = [float(i) for i in range(20)]
    assert found_at(clean, [17.5, 18.5, 19.5, 25.0], false_alarms=0.05) == 0.75
    assert found_at(clean, [17.5, 18.5, 19.5, 25.0], false_alarms=0.0) == 0.5


def test_the_deviation_of_the_easiest_form_by_hand() -> None:
    values = {f"{form}_ease": torch.tensor([1.0, 4.0, 5.0, 6.0, 7.0]) for form in FORMS}
    values["color_ease"] = torch.ones(5)
    values["faint_ease"] = torch.tensor([7.0, 6.0, 4.0, 5.0, 1.0])
    found = ease_deviation(values)
    assert found.tolist() == pytest.approx([4 / 1.4826, 1 / 1.4826, 1 / 1.4826, 0, 4 / 1.4826])


def write_jsonl(path: Path, records: Sequence[Record]) -> None:
    lines = [
        json.dumps(record.model_dump(mode="json", exclude_none=isinstance(record, ModelRecord))) for record in records
    ]
    path.write_text("".join(line + "\n" for line in lines))


def test_records_are_kept_read_and_judged(tmp_path: Path, cli: Cli) -> None:
    starts = {"a": 0, "b": 100, "c": 200}
    cases = [case(number, tower) for tower, start in starts.items() for number in range(start, start + 32)]
    for number, part in enumerate((cases[:60], cases[58:])):
        out = tmp_path / f"out{number}"
        out.mkdir()
        write_jsonl(out / "models.jsonl", [one.model for one in part])
        write_jsonl(out / "surveys.jsonl", [one.survey for one in part])
        assert cli("benchmark", "keep", "--out", out, "--records", "kept").status == 0
    models, surveys = read_kept(tmp_path / "kept")
    assert len(models) == len(surveys) == 96
    for one in cases:
        back = surveys[one.model.name, "20x16"]
        assert (back.classes, back.target) == (one.survey.classes, one.survey.target)
        assert back.values["any"] == pytest.approx(one.survey.values["any"], rel=1e-3)
    ran = cli("benchmark", "judge", "--records", "kept", "--fit", "evidence.json")
    assert ran.status == 0
    assert "| evidence |" in ran.out
    assert "48 of 48" in ran.out
    fitted = FittedEvidence.model_validate_json((tmp_path / "evidence.json").read_text())
    assert len(fitted.null) == 48
    assert len(read_judgments(tmp_path / "kept")) == 96
    ran = cli("benchmark", "judge", "--records", "kept", "--fit", "evidence.json", "--apart", "b")
    assert ran.status == 0
    assert "| b, 20x16 |" in ran.out
    fitted = FittedEvidence.model_validate_json((tmp_path / "evidence.json").read_text())
    assert {model.tower for model in fitted.null} == {"a", "c"}
    assert "--apart b" in fitted.command
    cut = fitted.model_copy(update={"null": tuple(m.model_copy(update={"scores": {}}) for m in fitted.null)})
    (tmp_path / "evidence.json").write_text(cut.model_dump_json())
    ran = cli("benchmark", "judge", "--records", "kept", "--extend", "evidence.json", "--apart", "b", "--apart", "c")
    assert (ran.status, "no kind of tower is left to judge 'a' by" in ran.err) == (2, True)
    assert read_evidence(tmp_path / "evidence.json").null == fitted.null
    ran = cli("benchmark", "judge", "--records", "kept", "--extend", "nowhere.json")
    assert (ran.status, "holds no evidence" in ran.err) == (2, True)
    ran = cli("benchmark", "judge", "--records", "kept", "--apart", "d")
    assert (ran.status, "there are a, b, c" in ran.err) == (4, True)


def test_records_that_are_none_are_refused(tmp_path: Path, cli: Cli) -> None:
    assert cli("benchmark", "judge", "--records", "nowhere").status == 2
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "surveys.safetensors").write_bytes(b"no tensors")
    ran = cli("benchmark", "judge", "--records", "kept")
    assert ran.status == 2
    assert "does not hold surveys" in ran.err

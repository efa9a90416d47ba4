"""From statistics of classes to a verdict, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from clip_antidote.benchmark.detection_tables import accused
from clip_antidote.benchmark.judging import read_judgments
from clip_antidote.detection.evidence import (
    FittedEvidence,
    NullModel,
    embedded_evidence,
    model_score,
    nearest_look,
)
from clip_antidote.detection.limits import LIMITS
from clip_antidote.detection.statistics import (
    FORM,
    LEAST,
    MOST,
    STATISTICS,
    counted_scores,
    form_scores,
    form_start,
    outlier_scores,
)
from clip_antidote.detection.survey import Survey
from clip_antidote.detection.verdict import ALARM, SHOWN, Verdict, is_suspicious, judge_survey
from clip_antidote.reporting.scan_report import reason_for

ROOT = Path(__file__).parents[1]
NAMES = ("a", "b", "c", "d", "e", "f")


def fitted(
    *scores: float,
    weights: dict[str, float] | None = None,
    offset: float = 1.0,
    beside: Sequence[float] = (),
) -> FittedEvidence:
    """Evidence whose clean models have these scores, and poisoned ones these beside their target; in one look."""
    null, others = (
        tuple(
            NullModel(name=f"{kind}-{number}", tower="ResNet" if number % 2 else "ViT", scores={"6x4": score})
            for number, score in enumerate(column)
        )
        for kind, column in (("clean", scores), ("poisoned", beside))
    )
    return FittedEvidence(command="by hand", weights=weights or {"any": 2.0}, offset=offset, null=null, beside=others)


def surveyed(**values: list[float]) -> Survey:
    return Survey({name: torch.tensor(row) for name, row in values.items()}, 4.0)


STANDS_OUT = [0.3, 0.31, 0.05, 0.29, 0.3, 0.32]
"""The third is far below the others."""


# Evidence


def test_p_values_count_the_model_among_the_clean_ones() -> None:
    evidence = fitted(1.0, 2.0, 3.0, 4.0)
    assert evidence.p_value(5.0, classes=6, shots=4) == (1 / 5, 4)
    assert evidence.p_value(3.5, classes=6, shots=4) == (2 / 5, 4)
    assert evidence.p_value(3.0, classes=6, shots=4) == (3 / 5, 4), "as suspicious counts"
    assert evidence.p_value(-9.0, classes=6, shots=4) == (1.0, 4)


def test_p_values_use_the_look_that_is_most_alike() -> None:
    null = (
        NullModel(name="x", tower="t", scores={"10x16": 1.0, "100x16": 9.0}),
        NullModel(name="y", tower="t", scores={"10x16": 2.0}),
    )
    evidence = FittedEvidence(command="", weights={"any": 1.0}, offset=0.0, null=null)
    assert evidence.p_value(5.0, classes=12, shots=16) == (1 / 3, 2)
    assert evidence.p_value(5.0, classes=80, shots=16) == (1.0, 1), "one clean model was looked at so"


def test_a_way_in_which_few_were_looked_at_does_not_count() -> None:
    null = [NullModel(name=str(i), tower="t", scores={"120x16": float(i)}) for i in range(10)]
    null[0] = NullModel(name="0", tower="t", scores={"120x16": 0.0, "10x16": 99.0})
    evidence = FittedEvidence(command="", weights={"any": 1.0}, offset=0.0, null=tuple(null))
    assert evidence.p_value(9.5, classes=10, shots=16) == (1 / 11, 10)


def test_looks_are_compared_by_ratios() -> None:
    looks = {"10x16", "100x16", "100x1"}
    assert nearest_look(looks, classes=30, shots=16) == "10x16", "30 is 3 times 10, and 100 is 3.3 times 30"
    assert nearest_look(looks, classes=33, shots=16) == "100x16"
    assert nearest_look(looks, classes=1000, shots=2) == "100x1"


def test_the_score_of_a_model_is_the_log_of_the_mean_ratio() -> None:
    assert model_score(torch.tensor([0.0, 0.0, 0.0])) == pytest.approx(0.0, abs=1e-6)
    ratios = torch.tensor([1.0, 2.0, 6.0])
    assert model_score(ratios.log()) == pytest.approx(math.log(3.0))
    assert model_score(torch.tensor([900.0, -900.0])) == pytest.approx(900 - math.log(2)), "nothing overflows"


def test_texts_speak_for_innocence_and_missing_triggers_do_not() -> None:
    """Scores count by their weight; negative ones of texts down to a limit, those of triggers not."""
    low = torch.tensor(STANDS_OUT)
    values = {"any": low, "patch_sent": 1 - low}
    z = outlier_scores(values)
    for name in values:
        assert z[name].min() < -0.1
    scores = fitted(0.0, weights={"any": 2.0, "patch_sent": 0.5}, offset=1.5).class_scores(values)
    torch.testing.assert_close(scores, 2.0 * z["any"] + 0.5 * z["patch_sent"].clamp_min(0) - 1.5)
    assert scores.argmax() == 2
    among_its_images = torch.full((50,), 0.5) + 0.01 * torch.rand(50, generator=torch.Generator().manual_seed(0))
    among_its_images[3] = 1.0
    assert float(counted_scores({"any": among_its_images})["any"][3]) == LEAST


def test_of_the_forms_the_loudest_counts_beyond_what_a_blameless_class_reaches() -> None:
    quiet = 0.01 * torch.rand(60, generator=torch.Generator().manual_seed(0))
    patch, color = quiet.clone(), quiet.flip(0).clone()
    patch[3], color[5] = -1.0, -0.02
    values = {"patch_ease": patch, "color_ease": color}
    z, counted = outlier_scores(values), counted_scores(values)
    assert float(z["patch_ease"][3]) == MOST
    assert float(counted[FORM][3]) == pytest.approx(MOST - form_start(60))
    assert float(counted[FORM][5]) == pytest.approx(max(float(z["color_ease"][5]) - form_start(60), 0))
    assert int((counted[FORM] > 0).sum()) <= 2
    assert list(form_scores(values, 3)) == ["patch_ease", "color_ease"]
    assert list(form_scores(values, 5)) == ["color_ease", "patch_ease"]
    both = {"patch_ease": patch, "color_ease": 2 * patch}
    assert outlier_scores(both)["patch_ease"][3] == outlier_scores(both)["color_ease"][3] == MOST
    both["patch_ease"] = torch.where(torch.arange(60) == 3, -0.1, quiet)
    assert next(iter(form_scores(both, 3))) == "color_ease", "also where both are beyond what counts"


def test_more_classes_reach_further_by_themselves() -> None:
    assert form_start(120) == pytest.approx(3.0, abs=0.01)
    assert form_start(10) == pytest.approx(1.25 * 1.2816, abs=1e-3)
    assert form_start(2) == 0.0
    assert form_start(1000) > 3.8


def test_the_form_that_speaks_is_named_among_the_findings() -> None:
    ease = torch.linspace(0, 0.1, 40)
    ease[7] = -3.0
    survey = Survey({"stripes_ease": ease, "patch_ease": torch.linspace(0, 0.1, 40)}, 16.0)
    verdict = judge_survey(survey, [str(i) for i in range(40)], fitted(*[-9.0] * 40, weights={FORM: 2.0}, offset=1.0))
    finding = verdict.ranking[0].findings[0]
    assert verdict.targets == ("7",)
    assert finding.statistic == "stripes_ease"
    assert finding.weight == pytest.approx(2 * (MOST - form_start(40)))
    assert finding.value == pytest.approx(-3.0)


def test_the_embedded_evidence_can_be_used() -> None:
    evidence = embedded_evidence()
    assert evidence.null
    assert evidence.weights.keys() <= {*STATISTICS, FORM}


# Statistics


@pytest.mark.parametrize("name", STATISTICS)
def test_what_is_suspicious_is_positive(name: str) -> None:
    low = torch.tensor([0.50, 0.51, 0.05, 0.49, 0.50, 0.52])
    suspicious = low if STATISTICS[name].suspicious == "low" else 1 - low
    z = outlier_scores({name: suspicious})[name]
    assert z.argmax() == 2
    assert z[2] > 1
    assert outlier_scores({name: 1 - suspicious})[name][2] < -0.5


def test_outlier_scores_end_somewhere() -> None:
    values = torch.full((200,), 0.5) + torch.linspace(-1e-4, 1e-4, 200)
    values[7], values[8] = 0.0, 1.0
    z = outlier_scores({"any": values})["any"]
    assert z.abs().max() <= MOST
    extreme = torch.full((50,), 0.5)
    extreme[3] = 0.0
    assert outlier_scores({"any": extreme})["any"][3] == MOST


def test_nothing_stands_out_among_three_nor_where_all_are_equal() -> None:
    assert outlier_scores({"any": torch.tensor([0.1, 0.9, 0.9])})["any"].tolist() == [0, 0, 0]
    assert outlier_scores({"recall": torch.ones(6)})["recall"].abs().max() < 1e-3


def test_unknown_statistics_are_left_alone() -> None:
    assert outlier_scores({"mask_size": torch.rand(6)}) == {}


def test_every_statistic_can_be_told() -> None:
    for entry in STATISTICS.values():
        assert entry.meaning[0].islower()
        assert not entry.meaning.endswith(".")
    assert all(sentence.endswith(".") for sentence in LIMITS)


def test_the_rates_of_the_limits_are_those_of_the_records() -> None:
    judged = [j for j in read_judgments(ROOT / "docs" / "records" / "population") if not j.apart]

    def rate(look: str, *, clean: bool, in_list: bool = True) -> tuple[int, int]:
        own = [
            j for j in judged if j.look == look and (j.attack is None) == clean and (clean or j.in_list == in_list)
        ]
        return len(accused(own, ALARM)), len(own)

    looks = ("120x16", "40x16", "20x16", "10x16")
    found, false = ([rate(look, clean=clean) for look in looks] for clean in (False, True))
    many, some, few, least = (f"{hits} of {there}" for hits, there in found)
    several = [j for j in judged if j.targets > 1 and j.look == "120x16"]
    named, there = sum(j.found for j in several), sum(j.targets for j in several)
    outside = rate("40x16", clean=False, in_list=False)
    little = [j for j in judged if "-third-" in j.model or "-badclip-one-" in j.model]
    seen = [len(accused([j for j in little if j.look == look], ALARM)) for look in ("120x16", "40x16")]
    text = " ".join(LIMITS)
    assert (len({j.model for j in little}), seen) == (2, [1, 0]), "as the limits say in words"
    assert len(several) == 7
    for told in (
        f"{many} were found at 120 classes, {some} at 40, {few} at 20 and {least} at 10",
        "of clean ones {}, {}, {} and {} stood out as much".format(*(f"{hits} of {there}" for hits, there in false)),
        f"is not seen ({outside[0]} of {outside[1]} were)",
        f"({named} of {there} targets in seven models were named)",
    ):
        assert told in text


# Verdict


def judged(*scores: float, alarm: float, weights: dict[str, float] | None = None) -> Verdict:
    survey = surveyed(any=STANDS_OUT, own=[0.2, 0.2, 0.15, 0.21, 0.19, 0.1], alignment=[0.1] * 6)
    return judge_survey(survey, NAMES, fitted(*scores, weights=weights), alarm=alarm)


def test_a_model_is_suspicious_at_the_very_alarm() -> None:
    verdict = judged(*[-99.0] * 19, alarm=0.05)
    assert verdict.p_value == verdict.least_p == 0.05
    assert verdict.suspicious
    assert verdict.targets[0] == "c"
    assert not judged(*[-99.0] * 18, alarm=0.05).suspicious, "1 in 19 is more than 0.05"
    one_more = judged(*[-99.0] * 18, 99.0, alarm=0.05)
    assert (one_more.p_value, one_more.suspicious, one_more.targets) == (0.1, False, ())


def test_what_is_more_likely_clean_is_not_suspicious_however_few_clean_models_lie_above() -> None:
    assert is_suspicious(0.1, 0.05, 0.05)
    assert not is_suspicious(-0.1, 0.05, 0.05)
    assert not is_suspicious(0.1, 0.051, 0.05)
    assert is_suspicious(-0.1, 1.0, 1.0), "an alarm of 1 is asked for by who wants every model accused"
    verdict = judged(*[-99.0] * 19, alarm=0.05, weights={"any": 0.1})
    assert verdict.p_value == 0.05
    assert verdict.score < 0
    assert verdict.probability < 0.5
    assert not verdict.suspicious
    assert "less likely than none" in reason_for(verdict)
    assert verdict.needed == pytest.approx(math.log(6) + 1.0), "no clean model comes near 0, which is needed too"


def test_a_verdict_says_how_it_came_about() -> None:
    verdict = judged(-99.0, -99.0, 99.0, alarm=0.5)
    assert (verdict.clean_models, verdict.least_p, verdict.p_value) == (3, 0.25, 0.5)
    assert verdict.towers == ("ResNet", "ViT")
    assert (verdict.classes, verdict.shots, verdict.alarm) == (6, 4.0, 0.5)
    assert verdict.probability == pytest.approx(1 / (1 + math.exp(-verdict.score)))
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_classes_are_ranked_with_what_speaks_for_them() -> None:
    weights = {"any": 2.0, "own": 1.0, "alignment": 3.0}
    verdict = judged(0.0, alarm=0.05, weights=weights)
    assert len(verdict.ranking) == min(SHOWN, len(NAMES))
    scores = [entry.score for entry in verdict.ranking]
    assert scores == sorted(scores, reverse=True)
    first, second = verdict.ranking[:2]
    assert (first.name, first.label) == ("c", 2)
    assert [finding.statistic for finding in first.findings] == ["any", "own"], "what speaks against it is left out"
    assert first.findings[0].weight == pytest.approx(2.0 * first.findings[0].z)
    assert first.findings[0].value == pytest.approx(0.05)
    assert first.score == pytest.approx(sum(f.weight for f in first.findings), abs=1e-4)
    assert first.findings[0].meaning == STATISTICS["any"].meaning
    assert second.name == "f", "its own clean images are far"
    assert sum(entry.share for entry in verdict.ranking) <= 1 + 1e-6
    assert first.share / second.share == pytest.approx(math.exp(first.score - second.score), rel=1e-4)


def test_with_three_classes_nothing_can_be_said() -> None:
    survey = surveyed(any=[0.3, 0.05, 0.3])
    verdict = judge_survey(survey, ("a", "b", "c"), fitted(-99.0, -99.0), alarm=0.5)
    assert (verdict.p_value, verdict.suspicious, verdict.targets) == (1.0, False, ())


def test_what_is_needed_is_where_the_alarm_begins() -> None:
    evidence = fitted(*map(float, range(19)))  # 19 clean models, the highest at 18
    assert evidence.score_needed(0.05, classes=6, shots=4) == 18
    assert evidence.score_needed(0.10, classes=6, shots=4) == 17
    assert evidence.score_needed(0.04, classes=6, shots=4) is None
    assert evidence.p_value(18.001, classes=6, shots=4)[0] == pytest.approx(0.05)
    assert evidence.p_value(18.0, classes=6, shots=4)[0] > 0.05
    verdict = judged(*map(float, range(19)), alarm=0.05)
    assert verdict.needed == pytest.approx(18 + math.log(6) + 1.0)


def test_a_second_target_is_hidden_by_the_first_and_needs_more_than_poisoned_models_have_beside_theirs() -> None:
    far = [0.3, 0.31, 0.29, 0.3, 0.32, 0.3, 0.28, 0.31, 0.05, 0.1]
    survey = surveyed(any=far)
    names = tuple("abcdefghij")

    def targets(
        beside: Sequence[float], *, survey: Survey = survey, alarm: float = 0.05, most: int = 3
    ) -> tuple[str, ...]:
        evidence = fitted(*[3.0] * 19, weights={"any": 3.0}, beside=beside)
        return judge_survey(survey, names, evidence, alarm=alarm, most=most).targets

    assert targets([3.0] * 19) == ("i", "j")
    assert targets([3.0] * 18 + [99.0]) == ("i",), "blameless classes of a poisoned model had as much"
    assert targets([3.0] * 38 + [99.0]) == ("i", "j"), "in one of 39, which is one in twenty with this model"
    assert targets([3.0] * 18) == ("i",), "of so few models nothing is rare enough"
    assert targets([]) == ("i",)
    assert targets([3.0] * 19, most=1) == ("i",)
    assert targets([3.0] * 19, alarm=1.0) == ("i", "j"), "who wants every model accused gets no further targets"
    assert targets([3.0] * 19, survey=surveyed(any=[*far[:9], 0.3])) == ("i",)

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, recall_score

from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation import (
    Metrics,
    Rate,
    compute_metrics,
    per_class_accuracy,
    wilson_interval,
)
from clip_antidote.evaluation.metric_table import METRICS, percent

# Eight images of three classes; class 2 is the target.
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
CLEAN = torch.tensor([0, 0, 2, 1, 0, 2, 2, 1])
TRIGGERED = torch.tensor([2, 2, 0, 2, 1, 2, 0, 2])
NAMES = ("hat", "dress", "shoes")


def hand_metrics() -> Metrics:
    return compute_metrics(CLEAN, LABELS, triggered_predictions=TRIGGERED, target=2, classes=NAMES)


@pytest.mark.parametrize(
    ("name", "successes", "count"),
    [
        ("ca", 5, 8),  # right: images 0, 1, 3, 5, 6
        ("asr", 3, 5),  # images 0 to 4 are not of the target; 0, 1, 3 are called it
        ("asr_all", 5, 8),  # and so are 5 and 7, which are of the target
        ("asr_floor", 1, 5),  # without trigger only image 2 is
        ("pa", 4, 8),  # right under trigger: images 2, 4, 5, 7
        ("target_ca", 2, 3),  # of the target's images 5, 6, 7 without trigger, 5 and 6 are right
    ],
)
def test_rates_worked_out_by_hand(name: str, successes: int, count: int) -> None:
    assert getattr(hand_metrics(), name) == Rate(successes, count)


def test_to_dict_has_values_intervals_and_counts() -> None:
    values = hand_metrics().to_dict()
    assert values["asr"] == pytest.approx(0.6)
    assert values["asr_count"] == 5
    assert values["asr_interval"] == pytest.approx(wilson_interval(3, 5))
    assert values["target"] == "shoes"
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_counts_give_back_the_measurement() -> None:
    metrics = hand_metrics()
    counts = json.loads(json.dumps(metrics.to_counts()))
    assert counts["asr"] == [3, 5]
    assert Metrics.from_counts(counts, "shoes") == metrics
    assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))) == metrics
    assert metrics.value("target_ca") == pytest.approx(2 / 3)
    assert metrics.value("asr_all") == Metrics.from_counts(counts).value("asr_all")
    with pytest.raises(ValueError, match="no counts of ca"):
        Metrics.from_counts({"ca": [1, 2], "nonsense": [1, 2]})


def test_no_images_survive_the_way_into_a_report_and_back() -> None:
    metrics = compute_metrics(torch.tensor([0, 1]), torch.tensor([0, 1]), target=2)
    assert Metrics.from_dict(metrics.to_dict()) == metrics
    assert metrics.value("target_ca") is None


def test_every_metric_is_in_the_one_table() -> None:
    assert {m.key for m in METRICS} == {f.name for f in dataclasses.fields(Metrics)} - {"target"}


@pytest.mark.parametrize(
    ("rate", "text"), [(0.5, "50.0 %"), (0.0039, "0.39 %"), (0.0, "0.0 %"), (None, "–"), (math.nan, "–")]
)
def test_rates_in_words(rate: float | None, text: str) -> None:
    assert percent(rate) == text
    assert METRICS[0].cell({"ca": rate}) == text


def test_a_cell_shows_the_interval_where_there_is_one() -> None:
    assert METRICS[0].cell({"ca": 0.5, "ca_interval": [0.2366, 0.7634]}) == "50.0 % [23.7, 76.3]"
    assert METRICS[0].cell({"ca": None, "ca_interval": [0.0, 1.0]}) == "–"


def test_clean_predictions_alone_give_clean_accuracy_alone() -> None:
    values = compute_metrics(CLEAN, LABELS).to_dict()
    assert set(values) == {"ca", "ca_interval", "ca_count", "mean_per_class_recall"}


def test_mean_per_class_recall_by_hand_and_by_scikit_learn() -> None:
    # Right are 2 of 3, 1 of 2 and 2 of 3.
    assert hand_metrics().mean_per_class_recall == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (300,), generator=generator) * 2  # every other class has no image
    predictions = torch.where(torch.rand(300, generator=generator) < 0.6, labels, 1)
    wanted = recall_score(labels, predictions, average="macro", labels=labels.unique())
    assert compute_metrics(predictions, labels).mean_per_class_recall == pytest.approx(wanted)
    assert compute_metrics(labels[:0], labels[:0]).mean_per_class_recall is None


def test_triggered_predictions_without_target_give_recovery_only() -> None:
    metrics = compute_metrics(CLEAN, LABELS, triggered_predictions=TRIGGERED)
    assert metrics.pa == Rate(4, 8)
    assert metrics.asr is None
    assert metrics.asr_all is None
    assert metrics.asr_floor is None
    assert metrics.target is None


def test_target_without_triggered_predictions_gives_its_clean_accuracy() -> None:
    metrics = compute_metrics(CLEAN, LABELS, target=2)
    assert metrics.target_ca == Rate(2, 3)
    assert metrics.asr is None
    assert metrics.target == "2"


def test_no_op_trigger_reproduces_clean_accuracy_and_floor() -> None:
    metrics = compute_metrics(CLEAN, LABELS, triggered_predictions=CLEAN, target=2)
    assert metrics.pa == metrics.ca
    assert metrics.asr == metrics.asr_floor


def test_agreement_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, clean, triggered = torch.randint(0, 5, (3, 400), generator=generator)
    metrics = compute_metrics(clean, labels, triggered_predictions=triggered, target=3)
    assert metrics.target_ca is not None
    assert metrics.pa is not None
    assert metrics.asr is not None
    recalls = recall_score(labels, clean, average=None)
    assert metrics.ca.value == pytest.approx(accuracy_score(labels, clean))
    assert metrics.pa.value == pytest.approx(accuracy_score(labels, triggered))
    assert metrics.target_ca.value == pytest.approx(recalls[3])
    # ASR is the recall of "is called the target" among the images of other classes.
    others = labels != 3
    called = (triggered[others] == 3).int()
    assert metrics.asr.value == pytest.approx(recall_score(torch.ones_like(called), called))
    per_class = [entry["accuracy"] for entry in per_class_accuracy(clean, labels, "abcde")]
    assert per_class == pytest.approx(recalls.tolist())


def test_no_image_of_the_target() -> None:
    labels = torch.tensor([0, 1])
    metrics = compute_metrics(labels, labels, triggered_predictions=torch.tensor([2, 1]), target=2)
    assert metrics.target_ca == Rate(0, 0)
    assert metrics.asr == metrics.asr_all == Rate(1, 2)
    values = metrics.to_dict()
    assert values["target_ca"] is None
    assert values["target_ca_interval"] == [0.0, 1.0]


def test_only_images_of_the_target_leave_attack_success_undefined() -> None:
    labels = torch.tensor([1, 1])
    metrics = compute_metrics(labels, labels, triggered_predictions=labels, target=1)
    assert metrics.asr is not None
    assert math.isnan(metrics.asr.value)
    assert metrics.asr_all == Rate(2, 2)


def test_no_images_at_all() -> None:
    empty = torch.empty(0, dtype=torch.long)
    metrics = compute_metrics(empty, empty)
    assert math.isnan(metrics.ca.value)
    assert metrics.to_dict() == {
        "ca": None,
        "ca_interval": [0.0, 1.0],
        "ca_count": 0,
        "mean_per_class_recall": None,
    }


def test_predictions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="clean predictions"):
        compute_metrics(CLEAN[:3], LABELS)
    with pytest.raises(DataError, match="triggered predictions"):
        compute_metrics(CLEAN, LABELS, triggered_predictions=TRIGGERED[:3])
    with pytest.raises(DataError, match="names are 2"):
        per_class_accuracy(CLEAN, LABELS, NAMES[:2])


@pytest.mark.parametrize("target", [-1, 3])
def test_target_that_is_no_class_is_refused(target: int) -> None:
    with pytest.raises(UsageError, match=str(target)):
        compute_metrics(CLEAN, LABELS, target=target, classes=NAMES)


def test_per_class_accuracy_by_hand() -> None:
    assert per_class_accuracy(CLEAN, LABELS, (*NAMES, "coat")) == [
        {"class": "hat", "accuracy": pytest.approx(2 / 3), "count": 3},
        {"class": "dress", "accuracy": 0.5, "count": 2},
        {"class": "shoes", "accuracy": pytest.approx(2 / 3), "count": 3},
        {"class": "coat", "accuracy": None, "count": 0},
    ]


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # z²/(n+z²) = 3.8415/13.8415
        (10, 10, 0.7225, 1.0),  # its mirror image, n/(n+z²)
        (5, 10, 0.2366, 0.7634),  # 1/2 ± z/(2·sqrt(n+z²)) = 0.5 ± 1.95996/7.44083
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval_known_values(successes: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_bounds_solve_the_score_equation() -> None:
    # The bounds are the p at which (x/n − p)² = z²·p·(1−p)/n; z is 2.5758 at 99 %.
    for bound in wilson_interval(13, 47, confidence=0.99):
        assert (13 / 47 - bound) ** 2 == pytest.approx(2.5758293**2 * bound * (1 - bound) / 47)


def test_wilson_interval_is_exact_at_the_ends_and_holds_the_share() -> None:
    for count in (1, 7, 1000):
        assert wilson_interval(0, count)[0] == 0.0
        assert wilson_interval(count, count)[1] == 1.0
        low, high = Rate(count // 2, count).interval
        assert low <= Rate(count // 2, count).value <= high


@pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (1, 5, 1.0), (1, 5, 0.0)])
def test_wilson_interval_refuses_nonsense(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="must be between"):
        wilson_interval(*arguments)

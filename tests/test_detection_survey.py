"""The survey of all classes: statistics by hand, the same whatever is optimized together, a real backdoor leads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.outliers import outlier_z
from clip_antidote.detection.statistics import STATISTICS, outlier_scores
from clip_antidote.detection.survey import Survey, measure_texts, outside_span, survey_classes
from clip_antidote.inversion.config import SurveyConfig
from clip_antidote.inversion.views import Observation, ViewPool
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe

SHORT = SurveyConfig(steps=3, wave_most=1)


def survey(model: DualEncoder, shots: LabelledImages, config: SurveyConfig = SHORT) -> Survey:
    settings = CBPTConfig(precision="fp32", pool=1)
    with model.evaluating():
        return survey_classes(observe(model, shots, settings), config, seed=0)


@pytest.fixture(scope="module")
def poisoned() -> DualEncoder:
    return load_model("demo:badnet")


@pytest.fixture(scope="module")
def found(poisoned: DualEncoder, train_images: LabelledImages) -> Survey:
    return survey(poisoned, train_images.sample_shots(4, seed=0), SurveyConfig())


def test_every_statistic_has_a_meaning_and_a_value_per_class(found: Survey) -> None:
    assert STATISTICS.keys() <= found.values.keys()
    assert all(value.shape == (10,) for value in found.values.values())
    assert all(value.isfinite().all() for value in found.values.values())
    assert found.shots == 4


def test_the_target_of_a_backdoor_leads(found: Survey, train_images: LabelledImages) -> None:
    target = train_images.classes.index("hat")
    scores = outlier_scores(found.values)
    for name in ("alignment", "own", "corners_ease", "patch_ease"):
        assert int(scores[name].argmax()) == target, name
        assert scores[name][target] > 0.5


def test_a_clean_model_gives_no_class_away_as_much(
    tiny: DualEncoder, found: Survey, train_images: LabelledImages
) -> None:
    clean = survey(tiny, train_images.sample_shots(4, seed=0), SurveyConfig())
    target = train_images.classes.index("hat")
    assert int(found.values["corners_ease"].argmin()) == target
    assert clean.values["corners_ease"].min() - 1 > found.values["corners_ease"][target]
    stands_out = [outlier_z(one.values["corners_ease"]) for one in (found, clean)]
    assert stands_out[0][target] > stands_out[1].max() + 1
    assert outlier_scores(clean.values)["alignment"].max() < outlier_scores(found.values)["alignment"][target]


def test_what_is_optimized_together_changes_nothing(small_model: DualEncoder, train_images: LabelledImages) -> None:
    shots = train_images.sample_shots(2, seed=0)
    together = survey(small_model, shots)
    side = small_model.image_size
    apart = survey(small_model, shots, SHORT.model_copy(update={"pixels": 3 * SHORT.batch_size * side * side}))
    for name, value in together.values.items():
        torch.testing.assert_close(apart.values[name], value, rtol=2e-3, atol=2e-3, equal_nan=True)


def test_the_same_seed_gives_the_same_survey(small_model: DualEncoder, train_images: LabelledImages) -> None:
    shots = train_images.sample_shots(2, seed=0)
    first, second = (survey(small_model, shots) for _ in range(2))
    assert all(torch.equal(v.nan_to_num(), second.values[name].nan_to_num()) for name, v in first.values.items())


def seen_by_hand(features: Any, weights: Any) -> Observation:
    pool = ViewPool(
        torch.zeros(4, 3, 2, 2, dtype=torch.uint8),
        torch.tensor([0, 0, 1, 1]),
        F.normalize(torch.tensor(features), dim=-1),
        torch.arange(4),
    )
    return Observation(None, None, F.normalize(torch.tensor(weights), dim=-1), pool, "fp32")  # type: ignore[arg-type]


def test_texts_by_hand() -> None:
    seen = seen_by_hand([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0.1, 0]], [[1.0, 0, 0], [0, 1, 0]])
    values = measure_texts(seen)
    assert values["recall"].tolist() == [1, 0.5]
    assert values["attracted"].tolist() == [0.5, 0]
    assert values["own"].tolist() == pytest.approx([1, 1])
    assert values["any"].tolist() == pytest.approx([1, 1])
    assert values["neighbor"].tolist() == pytest.approx([0, 0])


def test_what_no_image_has_lies_outside() -> None:
    features = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0.8, 0.6, 0]]), dim=-1)
    inside, outside = outside_span(torch.tensor([[1.0, 0, 0], [0, 0, 1]]), features).tolist()
    assert inside < 0.3 < 0.5 < outside < 1

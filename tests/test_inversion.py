from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import TensorSource
from clip_antidote.detection import search
from clip_antidote.detection.outliers import combine_z, outlier_z
from clip_antidote.detection.scores import ClassScore
from clip_antidote.inversion.alignment import alignment, best_similarity, class_centroids, closest_similarity
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.families import AdditiveBank, DummyBank, MaskBank
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.objective import inversion_loss
from clip_antidote.inversion.views import Observation, make_views
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder


def test_inversion_loss_by_hand() -> None:
    # z̃ = (1, 0); one positive at cosine 0.6, negatives at cosine 0 and 1; τ = 0.5:
    # -log(e^1.2 / (e^1.2 + e^0 + e^2))
    z = torch.tensor([[[1.0, 0.0]]])
    positives = torch.tensor([[[[0.6, 0.8]]]])
    negatives = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    loss = inversion_loss(z, positives, negatives, temperature=0.5)
    expected = -math.log(math.exp(1.2) / (math.exp(1.2) + 1 + math.exp(2)))
    assert loss.shape == (1, 1)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_outlier_z_by_hand() -> None:
    # the others of 0 are 1 2 3: mean 2, sd 1, so t = 2 / √(4/3) = √3 with 2 degrees of freedom, whose tail is
    # (1 − t/√(t² + 2)) / 2
    score = outlier_z(torch.tensor([0.0, 1.0, 2.0, 3.0]))[0]
    tail = (1 - math.sqrt(3) / math.sqrt(5)) / 2
    assert 0.5 * math.erfc(score.item() / math.sqrt(2)) == pytest.approx(tail, rel=1e-4)
    assert outlier_z(torch.tensor([0.0, 1.0, 1.0])).tolist() == [0, 0, 0], "three classes are too few to judge"


def test_the_same_distance_says_less_among_few_classes() -> None:
    few = torch.linspace(0, 1, 6)
    many = torch.linspace(0, 1, 60)
    few, many = (values / values.std() for values in (few, many))
    few[0], many[0] = few[1:].mean() - 4 * few[1:].std(), many[1:].mean() - 4 * many[1:].std()
    assert 1.5 < outlier_z(few)[0] < outlier_z(many)[0] < 4.1


def test_scores_of_blameless_classes_are_standard_normal() -> None:
    values = torch.randn(4000, 10, generator=torch.Generator().manual_seed(0)).exp()
    scores = torch.stack([outlier_z(row.log()) for row in values]).flatten()
    assert scores.mean().abs() < 0.02
    assert scores.std().item() == pytest.approx(1, abs=0.02)
    assert (scores > 2.326).float().mean().item() == pytest.approx(0.01, abs=0.002)


def test_scores_are_put_together_by_hand() -> None:
    both = combine_z([torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])])
    assert both.tolist() == pytest.approx([4 / math.sqrt(2), 0])


def test_alignment_singles_out_a_class_whose_text_left_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    centroids = F.normalize(torch.randn(20, 64, generator=generator), dim=-1)
    weights = F.normalize(centroids + 0.02 * torch.randn(20, 64, generator=generator), dim=-1)
    weights[7] = F.normalize(torch.randn(64, generator=generator), dim=0)
    scores = outlier_z(alignment(weights, centroids))
    assert scores.argmax() == 7
    assert scores[7] > 5


def test_best_similarity_by_hand() -> None:
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 0, 1])
    assert torch.allclose(best_similarity(features, labels, weights, share=0.5), torch.tensor([0.9, 0.0]))
    assert torch.allclose(best_similarity(features, labels, weights, share=0.01), torch.tensor([1.0, 0.0]))


def test_class_centroids_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    centroids = class_centroids(features, torch.tensor([0, 0, 1]), 2)
    assert torch.allclose(centroids, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [0.0, 1.0]]))


def banks() -> list[DummyBank]:
    generator = torch.Generator().manual_seed(0)
    return [
        MaskBank([5.0, 20.0, 1.0], 32, generator=generator),
        AdditiveBank([0.1, 0.05, 0.2], 32, generator=generator),
    ]


@pytest.mark.parametrize("bank", banks(), ids=lambda b: b.name)
def test_a_bank_and_its_triggers_do_the_same(bank: DummyBank) -> None:
    images = torch.rand(3, 4, 3, 32, 32)
    together = bank.apply_all(images)
    assert together.min() >= 0
    assert together.max() <= 1
    for row in range(3):
        assert torch.allclose(bank.trigger(row)(images[row]), together[row], atol=1e-6)
    assert bank.size().shape == (3,)


def test_additive_bound_holds() -> None:
    bank = banks()[1]
    assert isinstance(bank, AdditiveBank)
    with torch.no_grad():
        bank.theta.mul_(1e4)
    largest = bank.delta().abs().amax(dim=(1, 2, 3))
    assert torch.allclose(largest, torch.tensor([0.1, 0.05, 0.2]))


@pytest.mark.parametrize("family", ["mask", "additive"])
def test_inversion_lowers_its_loss_and_leaves_the_model_alone(small_model: OpenCLIPEncoder, family: str) -> None:
    images = TensorSource(torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8))
    shots = LabelledImages(images, torch.arange(40) % 4, ("a", "b", "c", "d"))
    pool = make_views(small_model, shots, views=2, min_scale=0.5, seed=0)
    assert len(pool) == 80
    weights = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    seen = Observation(small_model, shots, weights, pool, "fp32")
    config = InversionConfig(batch_size=16)
    hypotheses = torch.tensor([0, 2])
    ends = []
    for steps in (0, 40):
        generator = torch.Generator().manual_seed(0)
        bank: DummyBank
        if family == "mask":
            bank = MaskBank([1.0, 1.0], 32, generator=generator)
        else:
            bank = AdditiveBank([0.2, 0.2], 32, generator=generator)
        inverter = Inverter(seen, config, generator=generator)
        inverter.run(bank, hypotheses, steps=steps, description="test")
        ends.append(inverter.stats(bank, hypotheses, rows=torch.arange(80)))
    assert (ends[1].objective < ends[0].objective).all()
    assert ((ends[1].flip_rate >= 0) & (ends[1].flip_rate <= 1)).all()
    after = small_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in small_model.parameters())


def test_closest_similarity_looks_at_images_of_any_class_by_hand() -> None:
    features = F.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]]), dim=1)
    weights = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert closest_similarity(features, weights, share=0.5).tolist() == pytest.approx([1.0, 0.0])  # 1 of 2 images
    assert closest_similarity(features, weights, share=1.0).tolist() == pytest.approx([0.9, -0.3])


def test_rankings_are_merged_in_turn() -> None:
    assert search.in_turn([[3.0, 1.0, 2.0], [0.0, 9.0, 0.0]]) == [0, 1, 2]
    assert search.in_turn([[0.0, 0.0, 5.0]]) == [2, 0, 1]


def test_guarded_classes_lead_in_one_kind_of_evidence_or_another() -> None:
    values = [(7, 1.0, 0.0, 3.0, 0.1), (3, 2.0, 1.0, 2.0, 0.2), (5, 0.0, 9.0, 1.0, 0.0), (9, 0.0, 0.0, 0.0, 4.0)]
    scores = [ClassScore(*row) for row in values]
    assert search.choose_guarded(scores, 5) == (7, 9, 5, 3)  # by evidence, by distance, by ease, by disagreement
    assert search.choose_guarded(scores, 2) == (7, 9)
    assert search.choose_guarded(scores, -1) == ()
    assert search.choose_guarded([], 5) == ()


def test_few_classes_are_guarded_where_there_are_few() -> None:
    assert [search.most_guarded(classes, 5) for classes in (3, 4, 10, 29, 50, 1000)] == [0, 1, 1, 2, 5, 5]
    assert search.most_guarded(1000, 0) == 0

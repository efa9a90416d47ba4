from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import TensorSource
from clip_antidote.inversion.alignment import alignment, class_centroids, outlier_scores, robust_z
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.families import AdditiveBank, DummyBank, MaskBank
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.objective import inversion_loss
from clip_antidote.inversion.views import make_views
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


def test_robust_z_by_hand() -> None:
    # sorted -100 1 2 3 4: the median is 2; absolute deviations 1 0 1 2 102: their median is 1
    scores = robust_z(torch.tensor([1.0, 2.0, 3.0, 4.0, -100.0]))
    assert scores.tolist() == pytest.approx([x / 1.4826 for x in (1, 0, -1, -2, 102)], rel=1e-4)


def test_alignment_singles_out_a_class_whose_text_left_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    centroids = F.normalize(torch.randn(20, 64, generator=generator), dim=-1)
    weights = F.normalize(centroids + 0.02 * torch.randn(20, 64, generator=generator), dim=-1)
    weights[7] = F.normalize(torch.randn(64, generator=generator), dim=0)
    scores = robust_z(alignment(weights, centroids))
    assert scores.argmax() == 7
    assert scores[7] > 5


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
    config = InversionConfig(batch_size=16, precision="fp32")
    hypotheses = torch.tensor([0, 2])
    ends = []
    for steps in (0, 40):
        generator = torch.Generator().manual_seed(0)
        bank: DummyBank
        if family == "mask":
            bank = MaskBank([1.0, 1.0], 32, generator=generator)
        else:
            bank = AdditiveBank([0.2, 0.2], 32, generator=generator)
        inverter = Inverter(small_model, weights, pool, config, generator=generator)
        inverter.run(bank, hypotheses, steps=steps, description="test")
        ends.append(inverter.stats(bank, hypotheses, rows=torch.arange(80)))
    assert (ends[1].objective < ends[0].objective).all()
    assert ((ends[1].flip_rate >= 0) & (ends[1].flip_rate <= 1)).all()
    after = small_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in small_model.parameters())


def test_outlier_scores_by_hand() -> None:
    # evidence 6, 2, 1; chance √(2 ln 120) + √(2 ln 3) = 3.0945 + 1.4823; lead of the first 4, of the others -4, -5
    scores = outlier_scores(torch.tensor([4.0, 2.0, 0.0]), torch.tensor([2.0, 0.0, 1.0]), 120)
    chance = math.sqrt(2 * math.log(120)) + math.sqrt(2 * math.log(3))
    assert scores.tolist() == pytest.approx([6 - chance + 4, 2 - chance - 4, 1 - chance - 5], abs=1e-5)
    alike = outlier_scores(torch.tensor([4.0, 4.0]), torch.tensor([2.0, 2.0]), 120)
    assert alike[0] == alike[1]

"""Images that a gate stops are answered by other views of them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from clip_antidote.attacks.run import AttackResult
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder
from clip_antidote.models.other_views import encode_views, other_views
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.second_look import second_opinion
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger


def test_the_views_are_torchvisions_ten_crops() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = other_views(image[None])[0]
    assert views.shape == (21, 3, 32, 32)
    assert torch.equal(views[0], image.flip(-1))
    for view, crop in zip(views[1:], [*v2.TenCrop(28)(image), *v2.TenCrop(24)(image)], strict=True):
        wanted = v2.functional.resize(crop, [32, 32], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(view, wanted.clamp(0, 1))


def test_a_patch_in_a_corner_is_out_of_most_views() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 30:, 30:] = 1
    seen = (other_views(image)[0].amax(dim=(1, 2, 3)) > 0.5).tolist()
    assert sum(seen) == 5, "the mirror image, and of either size the bottom right crop and its mirror image"


def test_the_second_opinion_by_hand() -> None:
    # Three classes on the axes, target 0; logit scale ln 4: without the target, a view on the axis of class 1 or 2
    # gives it 4/5 and the other 1/5, and a view on the target's axis gives both 1/2.
    axes = torch.eye(3)
    views = torch.stack([axes[[0, 0, 0, 1]], axes[[2, 1, 2, 0]], axes[[0, 0, 0, 0]]])
    opinion = second_opinion(views, torch.eye(3), torch.tensor([0, 0, 0]), torch.tensor(4.0).log())
    assert opinion.argmax(1).tolist()[:2] == [1, 2]
    assert opinion[0, 1:].exp().tolist() == pytest.approx([3 / 4 + 16 / 25, 3 / 4 + 1 / 25])
    assert opinion[1, 1:].exp().tolist() == pytest.approx(
        [1 / 25 + 16 / 25 + 1 / 25 + 1 / 4, 16 / 25 + 1 / 25 + 16 / 25 + 1 / 4]
    )
    assert (opinion[:, 0] < opinion[:, 1:].amin(1)).all(), "never the target"


def test_a_sure_view_outvotes_unsure_ones() -> None:
    # Two views lean to class 1 (0.7 against 0.3), one is sure of class 2 (0.99).
    sure, leaning = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.55, 0.35])
    views = torch.stack([leaning, leaning, sure])[None]
    opinion = second_opinion(views, torch.eye(3), torch.tensor([0]), torch.tensor(5.0))
    assert opinion.argmax(1).tolist() == [2]
    assert torch.isfinite(opinion).all()


def test_only_stopped_images_are_looked_at_again(small_model: DualEncoder, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, tuned = F.normalize(torch.randn(2, 16, 3, generator=generator), dim=1)
    guard = GuardedHead(clean, (Gate(torch.randn(16, 1, generator=generator), torch.zeros(1), 1),), threshold=0.1)
    head = PurifiedCLIP(small_model, tuned, ("a", "b", "c"), context=torch.zeros(3, 4, 16), guard=guard)
    features = F.normalize(torch.randn(60, 16, generator=generator), dim=1)
    views = F.normalize(torch.randn(60, 4, 16, generator=generator), dim=2)
    asked: list[int] = []

    def look(rows: torch.Tensor) -> torch.Tensor:
        asked.extend(rows.tolist())
        return views[rows]

    answer = head.logits(features, look)
    _, called, triggered, _ = guard.decide(features)
    assert 0 < len(asked) < 60
    assert asked == triggered.nonzero().flatten().tolist()
    wanted = second_opinion(views[triggered], tuned, called[triggered], small_model.logit_scale)
    assert torch.equal(answer[triggered], wanted)
    assert torch.equal(answer[~triggered], head.logits(features)[~triggered])
    head.save_pretrained(tmp_path / "on")
    assert PurifiedCLIP.from_pretrained(tmp_path / "on", model=small_model).second_look
    off = PurifiedCLIP(
        small_model, tuned, head.classes, context=head.context, guard=guard, second_look=False
    ).with_threshold(0.1)
    assert torch.equal(off.logits(features, look), head.logits(features))
    off.save_pretrained(tmp_path / "off")
    assert not PurifiedCLIP.from_pretrained(tmp_path / "off", model=small_model).second_look


class Pictures:
    """Ten random images."""

    def __init__(self) -> None:
        self.pixels = torch.randint(0, 256, (10, 40, 40, 3), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index].to(torch.uint8).numpy())

    def name(self, index: int) -> str:
        return str(index)


def test_a_fresh_trigger_is_the_same_at_the_second_look(small_model: DualEncoder) -> None:
    images = LabelledImages(Pictures(), torch.zeros(10, dtype=torch.long), ("a", "b"))
    trigger = BadNetTrigger(BadNetConfig(fresh=True, position="random", patch=64))

    def darker(batch: torch.Tensor) -> torch.Tensor:
        return batch * 0.5

    features = encode_test_images(small_model, images, trigger=trigger, shift=darker, batch_size=4)
    generator = torch.Generator().manual_seed(0)
    triggered = torch.cat([trigger(part * 0.5, generator) for part, _ in images.batches(small_model.image_size, 4)])
    assert features.triggered is not None
    assert features.look_clean is not None
    assert features.look_triggered is not None
    assert torch.allclose(features.triggered, small_model.encode_images(triggered), atol=1e-5)
    rows = torch.tensor([7, 1, 4])
    found = features.look_triggered(rows)
    assert torch.allclose(found, encode_views(small_model, triggered[rows]), atol=0.02)  # bf16, other batches
    assert torch.equal(features.look_triggered(rows.flip(0)), found.flip(0)), "kept"
    plain = images.subset(rows).tensor(small_model.image_size).float() / 255 * 0.5
    assert torch.allclose(features.look_clean(rows), encode_views(small_model, plain), atol=0.02)


def test_the_second_look_recovers_more_of_the_true_classes(attacked: AttackResult, purified: PurifiedCLIP) -> None:
    one_look = replace(attacked.features, look_clean=None, look_triggered=None)
    first = measure(purified, one_look, target=TARGET).metrics
    second = measure(purified, attacked.features, target=TARGET).metrics
    assert first.pa is not None
    assert second.pa is not None
    assert second.asr == first.asr
    assert second.pa.value >= first.pa.value + 0.02
    assert second.ca.value >= first.ca.value - 0.01


def test_images_and_cached_features_are_answered_alike(
    attacked: AttackResult, purified: PurifiedCLIP, test_images: LabelledImages
) -> None:
    size = purified.model.image_size
    triggered = attacked.trigger(test_images.subset(range(30)).tensor(size).float() / 255)
    called = measure(purified, attacked.features, target=TARGET).triggered
    assert called is not None
    with torch.inference_mode():
        answer = purified(triggered).argmax(1)
    assert (answer == called[:30]).sum() >= 29, "bf16 in other batches may turn a tie"


def test_a_vote_that_is_decided_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    taken = importlib.import_module("early_stop").taken
    sure = [[0.9, 0.1, 0.0], [0.8, 0.1, 0.0], [0.1, 0.6, 0.0]]
    unsure = [[0.1, 0.2, 0.0], [0.3, 0.1, 0.0], [0.0, 0.9, 0.1]]
    votes = torch.tensor([sure, unsure])
    answer, views = taken(votes, lead=None)
    assert answer.tolist() == votes.sum(1).argmax(1).tolist() == [0, 1]
    assert views.tolist() == [2, 3]  # 1.5 ahead with one view to come; never ahead by more than is to come
    answer, views = taken(votes, lead=0.15)
    assert answer.tolist() == [0, 1]
    assert views.tolist() == [1, 3]

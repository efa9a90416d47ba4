"""Images that a gate stops are answered by other views of them."""

from __future__ import annotations

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
from clip_antidote.models.cleansing import cleanser, standardize_channels
from clip_antidote.models.other_views import COUNT, encode_views, other_views
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.second_look import second_opinion, view_consent
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger

BICUBIC = v2.InterpolationMode.BICUBIC


def test_the_views_are_the_image_its_mirror_and_corners_cleansed() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = other_views(image)[0]
    assert views.shape == (COUNT, 3, 32, 32)
    cleanse = cleanser(32, torch.device("cpu"))
    for six, whole in zip(views.split(6), (cleanse(image), cleanse(standardize_channels(image))), strict=True):
        assert torch.equal(six[0], whole[0])
        assert torch.equal(six[1], whole[0].flip(-1))
        ten = [
            v2.functional.resize(c, [32, 32], interpolation=BICUBIC, antialias=True) for c in v2.TenCrop(28)(whole)
        ]
        found = [
            next(n for n, crop in enumerate(ten) if torch.allclose(view, crop[0].clamp(0, 1))) for view in six[2:]
        ]
        # the crops of the mirror image are numbered from 5, and left is right there
        places = [number if number < 5 else {5: 1, 6: 0, 7: 3, 8: 2}[number] for number in found]
        assert places == [0, 1, 2, 3]
        assert sum(number >= 5 for number in found) == 2, "half of them mirrored"


def test_a_patch_in_a_corner_is_out_of_most_corners() -> None:
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 60:, 60:] = 1
    strongest = other_views(image)[0][:6].amax(dim=(1, 2, 3))
    assert (strongest[[0, 1, 5]] > 0.9).all(), "the image, its mirror image, the corner"
    assert (strongest[2:5] < 0.7).all(), "what is left is a ripple"


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


def test_views_consent_by_hand() -> None:
    # Logit scale ln 4 over three axes: a view on the axis of the class gives it 4/6, another one 1/6.
    axes = torch.eye(3)
    views = torch.stack([axes[[0, 0]], axes[[0, 1]], axes[[2, 1]]])
    chances = view_consent(views, torch.eye(3), torch.tensor([0, 0, 1]), torch.tensor(4.0).log())
    assert chances.tolist() == pytest.approx([4 / 6, 5 / 12, 5 / 12])


def test_an_image_near_the_threshold_is_accepted_if_its_views_consent(small_model: DualEncoder) -> None:
    # Features on a circle; the gate of class 0 scores the first coordinate. All are called class 0.
    clean = torch.zeros(16, 3)
    clean[:3] = torch.eye(3)
    features = torch.zeros(4, 16)
    features[:, 0] = torch.tensor([0.75, 0.55, 0.55, 0.35])
    features[:, 3] = (1 - features[:, 0].square()).sqrt()
    direction = torch.zeros(16, 1)
    direction[0] = 1
    agree, differ = F.normalize(clean[:, 0], dim=0), F.normalize(clean[:, 1], dim=0)
    views = torch.stack([agree, agree, differ, agree])[:, None].expand(-1, 5, -1)
    gate = Gate(direction, torch.zeros(1), 0)

    def answered(
        threshold: float = 0.7, leeway: float = 0.0, consent: float = 1.0, margin: float | None = None
    ) -> tuple[list[int], list[bool]]:
        guard = GuardedHead(
            clean, (gate,), threshold=threshold, leeway=[leeway], consent=consent, views_margin=margin
        )
        head = PurifiedCLIP(small_model, clean, ("a", "b", "c"), context=torch.zeros(3, 4, 16), guard=guard)
        answer = head.answer(features, lambda rows: views[rows])
        return answer.logits.argmax(1).tolist(), answer.triggered.tolist()

    called, stopped = answered(leeway=0.3, consent=0.6)
    assert stopped == [False, False, True, True], "passes; near, and views agree; near, but they do not; too far"
    assert called[:2] == [0, 0]
    assert 0 not in called[2:]
    assert answered(leeway=0.0, consent=0.6)[1] == [False, True, True, True]
    assert answered()[1] == [False, True, True, True], "unasked, nobody consents"
    assert answered(leeway=0.3, consent=1.0)[1] == [False, True, True, True]
    assert answered(threshold=0.6, leeway=0.3, consent=0.6)[1] == [False, False, True, False], (
        "the leeway moves along"
    )
    # the views that agree score 1, the first coordinate of the class's axis
    assert answered(leeway=0.3, consent=0.6, margin=0.2)[1] == [False, False, True, True]
    assert answered(leeway=0.3, consent=0.6, margin=0.4)[1] == [False, True, True, True], "the gate sees it in them"
    assert answered(threshold=0.9, leeway=0.4, consent=0.6, margin=0.2)[1] == [True, True, True, True], "moves along"


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

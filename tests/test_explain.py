"""Explanations: the answers are the classifiers' own, and what is said of gate, votes and heat is true."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from clip_antidote.attacks.run import AttackResult
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError, UsageError
from clip_antidote.jobs.demo import TARGET
from clip_antidote.jobs.explain import Explainer, gather_triggers, load_explainer
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.other_views import COLORS, COUNT, encode_views, other_views, view_names
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.second_look import second_opinion, view_votes
from clip_antidote.triggers import load_trigger
from conftest import two_gate_classifier

NEVER, ALWAYS = 1e9, -1e9
"""Thresholds that nothing passes, and everything."""


def stored(count: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def purified(small_model: DualEncoder) -> PurifiedCLIP:
    """Random weights but for the clean ones, which call every third of the stored images a class of its own."""
    made = two_gate_classifier(small_model, {"00-patch": load_trigger("badnet")})
    with small_model.frozen(), torch.no_grad():
        features = small_model.encode_images(stored().float() / 255)
    means = features.unflatten(0, (3, -1)).mean(dim=1)
    assert made.guard is not None
    made.guard.clean.copy_(torch.nn.functional.normalize(means - means.mean(dim=0), dim=1).T)
    return made


def test_the_answers_are_the_classifiers_own(purified: PurifiedCLIP) -> None:
    explainer = Explainer(purified)
    hand = ZeroShotClassifier.from_templates(purified.model, purified.classes)
    for image in stored():
        said = explainer.explain(image)
        floats = image[None].float() / 255
        assert torch.equal(said.image, floats[0])
        for ranked, classifier in ((said.before, hand), (said.after, purified)):
            with torch.no_grad():
                expected = classifier(floats).softmax(dim=1)[0]
            assert {one.name: pytest.approx(one.probability, abs=1e-5) for one in ranked} == dict(
                zip(purified.classes, expected.tolist(), strict=True)
            )
            assert [one.probability for one in ranked] == sorted((one.probability for one in ranked), reverse=True)


def test_the_gate_is_told_as_it_decided(purified: PurifiedCLIP) -> None:
    seen = set()
    for threshold in (NEVER, ALWAYS):
        explainer = Explainer(purified.with_threshold(threshold))
        for image in stored():
            said = explainer.explain(image)
            guarded = said.called in ("b", "c")
            assert (said.gate is not None) == guarded
            assert len(said.votes) == (COUNT if guarded and threshold == NEVER else 0)
            if said.gate is None:
                assert said.after[0].name == said.called
                seen.add("unasked")
                continue
            assert said.gate.target == said.called
            assert said.gate.threshold == threshold
            assert said.gate.stopped == (threshold == NEVER)
            assert (said.after[0].name == said.called) == (threshold == ALWAYS)
            gate = purified.guard.gates[said.gate.target == "c"] if purified.guard else None
            assert gate is not None
            with purified.model.frozen(), torch.no_grad():
                score = gate.score(purified.model.encode_images(image[None].float() / 255))
            assert said.gate.score == pytest.approx(float(score), abs=1e-5)
            seen.add("stopped" if said.gate.stopped else "passed")
    assert seen == {"unasked", "stopped", "passed"}


def test_the_votes_give_the_answer(purified: PurifiedCLIP) -> None:
    explainer = Explainer(purified.with_threshold(NEVER))
    said = next(said for said in map(explainer.explain, stored()) if said.votes)
    assert tuple(vote.view for vote in said.votes) == view_names()
    assert all(
        torch.equal(vote.picture, view)
        for vote, view in zip(said.votes, other_views(said.image[None])[0], strict=True)
    )
    assert {vote.name for vote in said.votes} <= set(purified.classes) - {said.called}
    assert all(vote.agrees == (vote.name == said.after[0].name) for vote in said.votes)
    with purified.model.frozen(), torch.no_grad():
        views = encode_views(purified.model, said.image[None])
    called = torch.tensor([purified.classes.index(said.called or "")])
    votes = view_votes(views, purified.classifier, called, purified.model.logit_scale.detach())
    assert bool((votes[0, :, called] == 0).all())
    assert [vote.confidence for vote in said.votes] == pytest.approx(votes[0].amax(dim=1).sqrt().tolist(), abs=1e-5)
    opinion = second_opinion(views, purified.classifier, called, purified.model.logit_scale.detach())
    others = [c for c in range(3) if c != int(called)]
    assert torch.allclose(opinion[0, others], votes[0].sum(dim=0)[others].log())


def test_an_image_is_accepted_by_consent(purified: PurifiedCLIP) -> None:
    head = purified.with_threshold(NEVER)
    assert head.guard is not None
    head.guard.leeway, head.guard.consent = (2 * NEVER,) * 2, 0.0
    said = [one for one in map(Explainer(head).explain, stored()) if one.gate is not None]
    assert said
    for one in said:
        assert one.gate is not None
        assert one.gate.consent is not None
        assert 0 < one.gate.consent < 1
        assert (one.gate.stopped, one.votes, one.after[0].name) == (False, (), one.called)
    head.guard.consent = 1.0
    assert all(one.gate is None or one.gate.stopped for one in map(Explainer(head).explain, stored()))


def test_without_a_second_look_nobody_votes(purified: PurifiedCLIP) -> None:
    purified = purified.with_threshold(NEVER)
    purified.second_look = False
    said = [Explainer(purified).explain(image) for image in stored()]
    assert any(one.gate is not None and one.gate.stopped for one in said)
    assert not any(one.votes for one in said)


def test_without_gates_there_is_nothing_to_say_of_them(small_model: DualEncoder) -> None:
    plain = PurifiedCLIP(small_model, torch.eye(16)[:, :2], ("a", "b"), context=torch.zeros(2, 4, 16))
    said = Explainer(plain).explain(stored(1)[0])
    assert (said.called, said.gate, said.votes) == (None, None, ())


def test_views_are_what_their_names_say() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = dict(zip(view_names(), other_views(image)[0], strict=True))
    assert len(views) == COUNT
    corners = {"upper left": (0, 0), "upper right": (0, 1), "lower left": (1, 0), "lower right": (1, 1)}
    for color in COLORS:
        whole = views[color][None]
        assert torch.equal(views[f"{color}, mirrored"], whole[0].flip(-1))
        for corner, (down, right) in corners.items():
            crop = whole[..., 4 * down : 4 * down + 28, 4 * right : 4 * right + 28]
            resized = torch.nn.functional.interpolate(crop, size=32, mode="bicubic", antialias=True)[0].clamp(0, 1)
            mirrored = f"{color}, {corner}, mirrored"
            view = views[mirrored].flip(-1) if mirrored in views else views[f"{color}, {corner}"]
            assert torch.allclose(view, resized, atol=1e-4)


def test_a_trigger_comes_in_by_degrees(purified: PurifiedCLIP) -> None:
    explainer = Explainer(purified, gather_triggers(purified, ["badnet"]))
    image = stored(1)[0]
    clean = image.float() / 255
    whole = load_trigger("badnet")(clean[None])[0]
    assert torch.equal(explainer.explain(image, "badnet", 0).image, clean)
    assert torch.equal(explainer.explain(image, "badnet", 1).image, whole)
    assert torch.allclose(explainer.explain(image, "badnet", 0.5).image, (clean + whole) / 2, atol=1e-6)
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="from 0 to 1"):
            explainer.explain(image, "badnet", strength)
    with pytest.raises(UsageError, match="no trigger 'x' here; known: badnet, dummy 00-patch"):
        explainer.explain(image, "x")


def test_triggers_have_names_of_their_own(purified: PurifiedCLIP, tmp_path: Path) -> None:
    load_trigger("badnet").save(tmp_path / "saved")
    names = list(gather_triggers(purified, ["badnet", str(tmp_path / "saved"), "blended"]))
    assert names == ["badnet", "badnet (2)", "blended", "dummy 00-patch"]
    with pytest.raises(UsageError, match="nothing"):
        gather_triggers(purified, ["nothing"])
    with pytest.raises(DataError, match="needs its mask and pattern"):
        gather_triggers(purified, ["mask"])


def test_images_are_read_as_for_evaluation(purified: PurifiedCLIP) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (10, 200, 30)).save(buffer, format="PNG")
    explainer = Explainer(purified)
    image = explainer.read(buffer.getvalue(), "a.png")
    assert image.shape == (3, 32, 32)
    assert image[:, 0, 0].tolist() == [10, 200, 30]
    with pytest.raises(DataError, match=r"a\.png: it has more than 1999 pixels"):
        explainer.read(buffer.getvalue(), "a.png", max_pixels=1999)
    explainer.read(buffer.getvalue(), "a.png", max_pixels=2000)
    with pytest.raises(DataError, match=r"cannot read image a\.png"):
        explainer.read(b"hello", "a.png")


def test_it_is_loaded_from_a_folder(purified: PurifiedCLIP, model_folder: str, tmp_path: Path) -> None:
    purified.model.spec, purified.model.sha256 = model_folder, load_model(model_folder).sha256
    purified.save_pretrained(tmp_path / "artefact")
    explainer = load_explainer(tmp_path / "artefact", ["blended"])
    assert list(explainer.triggers) == ["blended", "dummy 00-patch"]
    image = stored(1)[0]
    assert explainer.explain(image).called == Explainer(purified).explain(image).called
    with pytest.raises(DataError, match="not a purified classifier"):
        load_explainer(tmp_path)


@pytest.fixture
def poisoned(attacked: AttackResult, test_images: LabelledImages) -> Explainer:
    """The poisoned model with hand-written weights in the place of tuned ones, with the trigger that was planted."""
    weights = ZeroShotClassifier.from_templates(attacked.model, test_images.classes).classifier
    context = torch.zeros(len(test_images.classes), 4, 16)
    return Explainer(
        PurifiedCLIP(attacked.model, weights, test_images.classes, context=context), {"planted": attacked.trigger}
    )


def corner(heat: torch.Tensor) -> float:
    """The share of the heat in the lower right quarter, where the demo's BadNet puts its patch."""
    half = len(heat) // 2
    return float(heat[half:, half:].sum() / heat.sum())


def test_a_backdoor_looks_at_its_trigger(poisoned: Explainer, test_images: LabelledImages) -> None:
    """Where the poisoned model calls triggered images the target, it looks at the trigger, and only there."""
    with_it, without = [], []
    for index in range(0, len(test_images), 40):
        image = test_images.subset([index]).tensor(poisoned.purified.model.image_size)[0]
        said = poisoned.explain(image, "planted")
        if said.before[0].name == TARGET != test_images.classes[int(test_images.labels[index])]:
            with_it.append(corner(said.heat_before.heat))
            without.append(corner(poisoned.explain(image).heat_before.heat))
    shares = [sum(part) / len(part) for part in (with_it, without)]
    print(
        f"heat in the corner of the trigger, {len(with_it)} images: {shares[0]:.1%} with it, {shares[1]:.1%} without"
    )
    assert len(with_it) >= 5
    assert sum(with_it) / len(with_it) > 0.7
    assert sum(with_it) > 2 * sum(without)

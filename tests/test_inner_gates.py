"""Gates at inner layers: by hand, in files, and on the embedded model with a backdoor in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.attacks.run import AttackResult
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.evaluation.seen_again import InnerLook
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layers import LayerFeatures
from clip_antidote.purification.artefact import read_artefact
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead, lesser
from clip_antidote.purification.inner_gates import InnerGates, spread_stages
from clip_antidote.purification.stage_space import WIDEST, StageSpace


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inner_gates(model: DualEncoder, targets: tuple[int, ...] = (1, 2)) -> InnerGates:
    """Random gates at all stages of a model."""
    images = torch.rand(6, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        stages = model.encode_layers(images).stages
    numbers = spread_stages(len(stages))
    gates = [[Gate(randn(stages[i].shape[1], 2, seed=i), randn(2), target) for i in numbers] for target in targets]
    means, deviations = ({i: form(stages[i]) for i in numbers} for form in (lambda x: x.mean(0), lambda x: x.std(0)))
    return InnerGates(means, deviations, gates)


def guarded(model: DualEncoder, inner: InnerGates | None) -> PurifiedCLIP:
    clean, tuned = F.normalize(randn(2, 16, 3), dim=1)
    gates = [Gate(randn(16, 2, seed=n), randn(2, seed=n), n) for n in (1, 2)]
    head = GuardedHead(clean, gates, threshold=0.3, inner=inner)
    return PurifiedCLIP(model, tuned, ("a", "b", "c"), context=torch.zeros(3, 4, 16), guard=head)


def test_stages_are_evenly_spread() -> None:
    assert spread_stages(0) == ()
    assert spread_stages(1) == (0,)
    assert spread_stages(5) == (0, 1, 2, 3, 4)
    assert spread_stages(12) == (1, 3, 5, 7, 9, 11)
    assert spread_stages(7) == (0, 1, 2, 3, 4, 6)


def test_a_score_by_hand() -> None:
    # One stage of two channels, mean (1, 0), deviation (1, 2); one direction along the first channel.
    gate = Gate(torch.tensor([[2.0], [0.0]]), torch.tensor([0.5]), 0)
    second = Gate(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0]), 0)
    means, deviations = {1: torch.tensor([1.0, 0.0])}, {1: torch.tensor([1.0, 2.0])}
    stages = [torch.zeros(2, 7), torch.tensor([[4.0, 8.0], [1.0, -2.0]])]  # in deviations (3, 4) and (0, -1)
    inner = InnerGates(means, deviations, [[gate], [second]])
    assert inner.scores(stages)[0].flatten().tolist() == pytest.approx([2 * 0.6 - 0.5, -0.5])
    assert inner.scores(stages)[1].flatten().tolist() == pytest.approx([0.8, -1.0])


def test_neither_makes_up_for_the_other() -> None:
    final, inner = torch.tensor([9.0, 0.5, 1.0]), torch.tensor([[0.0, 0.1], [0.5, 0.8], [1.0, 2.0]])
    assert lesser(final, inner).tolist() == pytest.approx([0.05 + 0.1, 0.5, 1.0])


def test_the_decision_is_the_lesser_of_both() -> None:
    # Two classes along x and y; the gate's score is the first number, the inner one the first channel's sign.
    gate = Gate(torch.tensor([[1.0], [0.0]]), torch.zeros(1), 0)
    inner = InnerGates({0: torch.zeros(1)}, {0: torch.ones(1)}, [[Gate(torch.ones(1, 1), torch.zeros(1), 0)]])
    guard = GuardedHead(torch.eye(2), [gate], threshold=0.5, inner=inner)
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    asked: list[list[int]] = []

    def layers(rows: torch.Tensor) -> list[torch.Tensor]:
        asked.append(rows.tolist())
        return [torch.tensor([[5.0], [-5.0], [5.0]])[rows]]

    decision = guard.decide(features, layers)
    assert decision.score.tolist() == pytest.approx([1.0, -1.0 + 0.1, float("inf")])
    assert decision.triggered.tolist() == [False, True, False]
    assert asked == [[0, 1]], "of what is called no target, nothing is asked"
    assert guard.decide(features).triggered.tolist() == [False, False, False], "without them the final feature alone"


def test_a_wide_stage_needs_no_projection_later() -> None:
    stages = [randn(40, WIDEST + 100), randn(40, 9, seed=1)]
    space = StageSpace.fit(stages, seed=0)
    places = space.places(LayerFeatures(stages, torch.zeros(40, 2)))[:-1]
    gates = [Gate(randn(place.shape[1], 3, seed=i), randn(3, seed=i), 0) for i, place in enumerate(places)]
    inner = InnerGates.of(space, (0, 2), [gates])
    wanted = torch.stack([gate.score(place) for gate, place in zip(gates, places, strict=True)], dim=1)
    found = inner.scores([stages[0], torch.zeros(40, 5), stages[1]])[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    lengths = places[0].norm(dim=1)
    assert 0.7 < float(lengths.min()) < float(lengths.max()) < 1.3, "a projection nearly keeps lengths"


def test_they_are_kept_in_the_artefact(small_model: DualEncoder, tmp_path: Path) -> None:
    head = guarded(small_model, inner_gates(small_model))
    head.save_pretrained(tmp_path / "out")
    again = PurifiedCLIP.from_pretrained(tmp_path / "out", model=small_model)
    images = torch.rand(20, 3, 40, 40, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        assert again.reads_layers
        assert torch.equal(again(images), head(images))
    config = tmp_path / "out" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format": 3}))
    assert read_artefact(tmp_path / "out").guard is not None, "the format before is read"
    broken = inner_gates(small_model, (1,))
    head.guard = GuardedHead(head.guard.clean, head.guard.gates, threshold=0.3, inner=broken) if head.guard else None
    head.save_pretrained(tmp_path / "short")
    with pytest.raises(DataError, match="not a purified classifier"):
        PurifiedCLIP.from_pretrained(tmp_path / "short", model=small_model)


def test_images_and_features_are_answered_alike(
    purified: PurifiedCLIP, attacked: AttackResult, test_images: LabelledImages
) -> None:
    """What `forward` reads in one pass, evaluation reads again where it is asked for."""
    part = test_images.subset(range(0, 372, 12))
    encoded = encode_test_images(purified.model, part, trigger=attacked.trigger, batch_size=9)
    for features, look, layers, change in (
        (encoded.clean, encoded.look_clean, encoded.layers_clean, None),
        (encoded.triggered, encoded.look_triggered, encoded.layers_triggered, attacked.trigger),
    ):
        images = part.tensor(purified.model.image_size).float() / 255
        with torch.no_grad():
            assert features is not None
            found = purified.answer(features, look, layers).logits.argmax(1)
            wanted = purified(images if change is None else change(images)).argmax(1)
        assert int((found != wanted).sum()) <= 1, "the second look is in bf16, and its batches differ"
    assert measure(purified, encoded, target="hat").metrics.asr.value <= 0.05  # type: ignore[union-attr]


def test_what_is_kept_is_bounded(small_model: DualEncoder, problem: str) -> None:
    images = load_images(problem, split="train")
    look = InnerLook(small_model, images, 4, lambda batch, number: batch)
    look.again.most = 0
    rows = torch.tensor([3, 0, 3])
    first, second = look(rows), look(rows)
    assert not look.again.known
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    look.again.most = float("inf")
    assert all(torch.equal(a, b) for a, b in zip(look(rows), first, strict=True))
    assert sorted(look.again.known) == [0, 3]


def test_an_imitation_at_the_end_is_told_by_inner_layers(
    purified: PurifiedCLIP, attacked: AttackResult, test_images: LabelledImages, train_images: LabelledImages
) -> None:
    """Triggered images that have the target's own final features still show at the inner layers.

    The final features of clean images of the target stand for a perfect imitation; the inner layers are those of
    images with the trigger.
    """
    model, guard = purified.model, purified.guard
    assert guard is not None
    assert guard.inner is not None
    label = purified.classes.index("hat")
    size = model.image_size
    others = test_images.subset((test_images.labels != label).nonzero().flatten()[:40]).tensor(size).float() / 255
    hats = train_images.subset((train_images.labels == label).nonzero().flatten()).tensor(size).float() / 255
    with torch.inference_mode():
        clean, triggered = model.encode_layers(hats), model.encode_layers(attacked.trigger(others))
        accepted = guard.decide(clean.final, clean.at)
        own = ((accepted.called == label) & ~accepted.triggered).nonzero().flatten()
        own = own[torch.arange(len(triggered.final)) % len(own)]
        imitated = clean.final[own]
        alone = guard.decide(imitated).triggered.float().mean()
        both = guard.decide(imitated, triggered.at).triggered.float().mean()
    assert alone < 0.2
    assert both > 0.8

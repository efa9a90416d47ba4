"""Triggers of a given form: shapes and colors by hand; one stands in for the trigger of a backdoor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.forms import FORMS, invert_answering, invert_form, measure_forms
from clip_antidote.detection.search import invert_unanswered
from clip_antidote.detection.statistics import stands_out
from clip_antidote.detection.survey import Survey
from clip_antidote.errors import DataError, ModelError
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.config import InversionConfig, SurveyConfig
from clip_antidote.inversion.families import DummyBank
from clip_antidote.inversion.shapes import CORNERS, ColorBank, PatchBank, StripeBank, cosines, squares
from clip_antidote.inversion.views import Observation
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.triggers import load_trigger
from clip_antidote.triggers.color import ColorTrigger, bend_colors

SIZE = 8
SHORT = SurveyConfig(steps=2)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def banks() -> list[DummyBank]:
    return [
        PatchBank([0.25, 0.5], SIZE, generator=generator()),
        PatchBank([0.25, 0.25], SIZE, places=CORNERS, generator=generator()),
        StripeBank([0.1, 0.2], SIZE, generator=generator()),
        ColorBank([0.1, 0.2], SIZE, generator=generator()),
    ]


def seen_by(model: DualEncoder, shots: LabelledImages) -> Observation:
    return observe(model, shots, CBPTConfig(precision="fp32", pool=1))


def surveyed(model: DualEncoder, shots: LabelledImages, config: SurveyConfig) -> dict[str, torch.Tensor]:
    with model.evaluating():
        seen = seen_by(model, shots)
        return measure_forms(seen, config, torch.arange(len(seen.pool)), seed=0)


def test_a_square_in_the_middle_by_hand() -> None:
    mask = squares(0.5, 4, [(0.5, 0.5)])[0]
    assert mask.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_squares_in_the_corners_by_hand() -> None:
    mask = squares(0.25, 4, CORNERS)[0]
    assert mask.tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]


def test_cosines_are_orthogonal() -> None:
    waves = cosines(32)
    gram = waves @ waves.T / 32
    torch.testing.assert_close(gram, torch.diag(torch.tensor([1.0] + [0.5] * 15)), atol=1e-5, rtol=0)


def test_stripes_are_a_sum_of_one_profile_per_axis() -> None:
    bank = StripeBank([1e-3], SIZE, generator=generator())
    delta = torch.atanh(bank.delta()[0, 0] / 1e-3)
    mixed = delta - delta[:1] - delta[:, :1] + delta[0, 0]
    assert mixed.abs().max() < 1e-4
    assert delta.std() > 0.01


def test_color_curves_by_hand() -> None:
    curves = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [0.0, 0.2, -0.2]])
    image = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).expand(3, 1, 5)
    out = bend_colors(image[None], curves)[0, :, 0]
    assert out[0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert out[1].tolist() == pytest.approx([0.1, 0.35, 0.6, 0.85, 1])
    assert out[2].tolist() == pytest.approx([0, 0.35, 0.7, 0.75, 0.8])


@pytest.mark.parametrize("bank", banks(), ids=lambda bank: bank.name)
def test_a_trigger_taken_out_does_what_the_bank_does(bank: DummyBank, tmp_path: Path) -> None:
    images = torch.rand(2, 5, 3, SIZE, SIZE, generator=generator())
    together = bank.apply_all(images)
    assert together.min() >= 0
    assert together.max() <= 1
    for h in range(2):
        bank.trigger(h).save(tmp_path / str(h))
        torch.testing.assert_close(load_trigger(tmp_path / str(h))(images[h]), together[h].detach())


@pytest.mark.parametrize("bank", banks(), ids=lambda bank: bank.name)
def test_limits_hold_however_far_it_is_driven(bank: DummyBank) -> None:
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator()) * 100)
    gray = torch.full((2, 1, 3, SIZE, SIZE), 0.5)
    change = (bank.apply_all(gray) - gray).abs()
    if bank.name == "patch":
        assert (change.amax((1, 2)) > 0).float().mean((1, 2)).tolist() == pytest.approx(bank.size().tolist())
    else:
        assert change.amax((1, 2, 3, 4)).tolist() == pytest.approx([0.1, 0.2], abs=1e-6)


def test_curves_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match="3×K"):
        ColorTrigger(torch.zeros(2, 5))
    with pytest.raises(DataError, match="needs its curves"):
        ColorTrigger.restore(ColorTrigger.config_class(), {})


def test_a_dummy_of_the_answering_form_stands_in_for_a_patch(tiny: DualEncoder, train_images: LabelledImages) -> None:
    shots, target = train_images.sample_shots(4, seed=0), train_images.classes.index("hat")
    sent = {}
    for name, model in (("poisoned", load_model("demo:badnet")), ("clean", tiny)):
        with model.evaluating():
            seen = seen_by(model, shots)
            rows = torch.arange(len(seen.pool))
            dummy = invert_form(seen, InversionConfig(form_steps=5), "corners", target, rows, seed=0)
        assert (dummy.family, dummy.target) == ("corners", target)
        assert dummy.size == pytest.approx(0.16, abs=0.01), "four corners, each a fifth of the side"
        sent[name] = dummy.flip_rate or 0.0
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(dummy.trigger(images), dummy.trigger(images))
    assert sent["poisoned"] > 0.9
    assert sent["clean"] < sent["poisoned"] - 0.1


@pytest.mark.parametrize(
    ("rates", "tried", "chosen"),
    [([0.95, 0.2, 0.1, 0.9], 1, 0), ([0.6, 0.99, 0.1, 1.0], 2, 1), ([0.6, 0.3, 0.7, 1.0], 3, 2)],
)
def test_a_form_that_does_not_answer_gives_way_to_the_next(
    rates: list[float], tried: int, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def made(seen: object, config: object, form: str, target: int, rows: object, *, seed: int) -> Dummy:
        asked.append(form)
        return Dummy(load_trigger("badnet"), form, target, rates[FORMS.index(form)], 0.1)

    monkeypatch.setattr("clip_antidote.detection.forms.invert_form", made)
    seen: Any = None
    dummy = invert_answering(seen, InversionConfig(), FORMS[:4], 3, torch.arange(2), seed=0)
    assert (asked, dummy.family, dummy.target) == (list(FORMS[:tried]), FORMS[chosen], 3)


def test_a_guarded_class_that_no_dummy_reaches_gets_one_of_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where a form reaches it more easily than blameless classes are reached, and none of its dummies does."""
    usual = torch.randn(60, generator=generator())
    easy = usual.clone()
    easy[[3, 4]] -= 9.0
    survey = Survey({f"{form}_ease": easy if form == "stripes" else usual for form in FORMS}, 4.0)
    assert stands_out(survey.values, 3)
    assert not stands_out(survey.values, 5)

    def made(seen: object, config: object, forms: list[str], target: int, rows: object, *, seed: int) -> Dummy:
        return Dummy(load_trigger("sig"), forms[0], target, 1.0, 0.1)

    monkeypatch.setattr("clip_antidote.detection.search.invert_answering", made)
    rates = {3: (0.03, 0.0), 4: (0.02, 0.95), 5: (0.1, 0.2)}
    inverted = [Dummy(load_trigger("badnet"), "mask", label, rate) for label, both in rates.items() for rate in both]
    seen: Any = None
    more = invert_unanswered(seen, InversionConfig(), inverted, survey, rows=torch.arange(2), seed=0)
    assert [(dummy.family, dummy.target) for dummy in more] == [("stripes", 3)]
    off = InversionConfig(form_steps=0)
    assert invert_unanswered(seen, off, inverted, survey, rows=torch.arange(2), seed=0) == []


def test_what_is_optimized_together_changes_nothing(small_model: DualEncoder, train_images: LabelledImages) -> None:
    shots, side = train_images.sample_shots(2, seed=0), small_model.image_size
    together = surveyed(small_model, shots, SHORT)
    apart = surveyed(small_model, shots, SHORT.model_copy(update={"pixels": 3 * SHORT.batch_size * side * side}))
    assert together.keys() == {f"{form}_{name}" for form in FORMS for name in ("ease", "sent")}
    for name, value in together.items():
        torch.testing.assert_close(apart[name], value, rtol=2e-3, atol=2e-3)


def test_a_class_that_is_reached_without_any_loss_has_a_number(
    small_model: DualEncoder, train_images: LabelledImages
) -> None:
    sharp = SHORT.model_copy(update={"temperature": 1e-6})
    values = surveyed(small_model, train_images.sample_shots(1, seed=0), sharp)
    assert all(value.isfinite().all() for value in values.values())
    assert min(value.min() for name, value in values.items() if name.endswith("ease")) < 0


def test_a_model_without_numbers_is_refused(small_model: DualEncoder, train_images: LabelledImages) -> None:
    seen = seen_by(small_model, train_images.sample_shots(1, seed=0))
    broken = Observation(seen.model, seen.shots, seen.weights * torch.nan, seen.pool, "fp32")
    with pytest.raises(ModelError, match="not finite"):
        measure_forms(broken, SHORT, torch.arange(4), seed=0)

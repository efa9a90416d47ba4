"""Reports: escaping, completeness, pictures that survive the way into a file, and the model card."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.record import PurificationRecord, ScoreRow, TriggerRow
from clip_antidote.reporting import (
    CAVEAT,
    ClassChange,
    ModelFacts,
    Picture,
    Report,
    Sample,
    amplified_difference,
    plot_class_changes,
    plot_scores,
    render_card,
    render_html,
    to_png,
)
from conftest import a_verdict

EVIL = '<script>alert("1")</script>'


def metrics(**rates: float) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, rate in rates.items():
        values |= {name: rate, f"{name}_interval": [rate / 2, (1 + rate) / 2], f"{name}_count": 372}
    return values


def made(**changes: Any) -> PurificationRecord:
    """A record with little in it."""
    fields: dict[str, Any] = {"method": "cbpt", "targets_suspected": (), "shots": 16, "seed": 0}
    return PurificationRecord(**{**fields, "settings": CBPTConfig(), **changes})


def with_made(report: Report, **changes: Any) -> Report:
    return report.model_copy(update={"purification": report.purification.model_copy(update=changes)})


@pytest.fixture
def report() -> Report:
    return Report(
        version="0.1.0",
        created="2025-01-02T03:04:05+00:00",
        command="demo",
        model=ModelFacts(spec="open_clip:RN50@/some/where/suspect.pt", sha256="ab" * 32, parameters=1000),
        purification=made(
            targets_suspected=("hat",),
            settings=CBPTConfig.build({"inversion": {"survey": {"steps": 200}}}),
            verdict=a_verdict(p_value=0.016, clean_models=60, targets=("hat",)),
            scores=(
                ScoreRow(class_name="dress", score=0.3, alignment=0.0, inversion=0.5),
                ScoreRow(class_name="hat", score=5.2, alignment=0.1, inversion=None),
                ScoreRow(class_name=EVIL, score=math.nan, alignment=0.0, inversion=None),
            ),
            triggers=(
                TriggerRow(
                    name="mask-0", family="mask", hypothesis=EVIL, flip_rate=0.97, size=0.01, file="triggers/x"
                ),
            ),
            stages={"features": 3.2, "tuning": 125.0},
            seconds=128.2,
            versions={"python": EVIL},
        ),
        classes=("hat", "dress", EVIL),
        measured_on="372 test images",
        target_true="hat",
        before=metrics(ca=0.714, asr=0.968),
        after=metrics(ca=0.701, asr=0.0039),
        per_class=(
            ClassChange(class_name="hat", before=0.9, after=0.6, count=30),
            ClassChange(class_name=EVIL, before=0.5, after=0.7, count=30),
            ClassChange(class_name="dress", before=None, after=0.7, count=0),
        ),
        warnings=(f"a warning about {EVIL}",),
    )


def decoded(png: bytes) -> torch.Tensor:
    return vision.pil_to_tensor(Image.open(io.BytesIO(png)).convert("RGB"))


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_names_from_folders_cannot_become_markup(report: Report) -> None:
    report = with_made(report, targets_suspected=(EVIL,)).model_copy(update={"target_true": EVIL})
    png = to_png(torch.zeros(3, 2, 2))
    page = render_html(report, [Picture(EVIL, EVIL, png)], [Sample(png, EVIL, "hat", EVIL, "triggered")])
    assert "<script" not in page
    assert "Suspected target: <bdi>&lt;script&gt;" in page
    assert f'alt="{EVIL[0]}' not in page
    assert re.findall(r'alt="([^"]*)"', page).count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") == 2


def test_both_heads_are_shown_where_there_are_two(report: Report) -> None:
    assert "One weight per class" not in text_of(render_html(report, [], []))
    page = text_of(render_html(report.model_copy(update={"after_single": metrics(ca=0.612, asr=0.0)}), [], []))
    assert "One weight per class" in page
    assert "61.2" in page


@pytest.mark.parametrize(("second_look", "said"), [(True, "other views of it"), (False, "dummy triggers decide")])
def test_readers_are_told_how_a_gate_answers(report: Report, second_look: bool, said: str) -> None:
    assert "has to pass a gate" not in render_html(report, [], [])
    assert "has to pass a gate" not in render_card(report)
    settings = CBPTConfig.build({"gate": {"threshold": 0.7, "second_look": second_look}})
    report = with_made(
        report, method="cbpt-gate", targets_suspected=("hat",), guarded=("hat", EVIL), settings=settings
    )
    for page in (render_html(report, [], []), render_card(report)):
        assert "“hat” or “&lt;script" in page
        assert "<script>alert" not in page
        assert said in page
        assert "here 0.7" in page.replace("\\", "")


def test_a_guard_is_told_apart_from_an_accusation(report: Report) -> None:
    page = render_html(with_made(report, method="cbpt-gate", targets_suspected=(), guarded=("hat", EVIL)), [], [])
    assert "<h1>No backdoor found</h1>" in page
    assert "Guarded all the same: <bdi>hat</bdi>, <bdi>&lt;script" in page
    page = render_html(
        with_made(report, method="cbpt-gate", targets_suspected=("hat",), guarded=("hat", "b")), [], []
    )
    assert "Suspected target: <bdi>hat</bdi>" in page
    assert "Guarded as well: <bdi>b</bdi>." in page


def test_what_stands_out_unconfirmed_is_no_accusation(report: Report) -> None:
    verdict = a_verdict(p_value=0.016, clean_models=60, unconfirmed=(EVIL,))
    doubtful = with_made(report, method="cbpt-gate", targets_suspected=(), guarded=(EVIL, "b"), verdict=verdict)
    page = render_html(doubtful, [], [])
    assert "<h1>No backdoor confirmed</h1>" in page
    assert "stands out as a target does (p = 0.016 against 60 clean models), but no trigger that works" in page
    assert "<script>alert" not in page
    assert "No backdoor confirmed. Made with" in render_card(doubtful)


def test_page_loads_nothing_from_elsewhere(report: Report) -> None:
    png = to_png(torch.rand(3, 4, 4))
    page = render_html(report, [Picture("mask-0", "a mask", png)], [Sample(png, "hat", "hat", "hat", "clean")])
    sources = re.findall(r"\b(?:src|href|srcset|data|action)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert len(sources) == 4  # two charts, one trigger, one sample
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert "<link" not in page
    assert "default-src 'none'" in page


def test_pictures_arrive_unchanged(report: Report) -> None:
    trigger, sample = to_png(torch.rand(3, 5, 7)), to_png(torch.rand(3, 6, 6))
    page = render_html(report, [Picture("mask-0", "found", trigger)], [Sample(sample, "hat", "x", "y", "dummy")])
    embedded = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert trigger in embedded
    assert sample in embedded
    assert "flips 97.0 % of the images" in page


def test_verdict_rates_and_intervals_are_shown(report: Report) -> None:
    text = text_of(render_html(report, [], []))
    assert "Suspected target: hat" in text
    assert "(p = 0.016 against 60 clean models)" in text
    assert "Right: the attack planted the target hat" in text
    assert "71.4 % → 70.1 %" in text
    assert "96.8 % → 0.39 %" in text
    assert "[35.7, 85.7] · n = 372" in text
    assert "✓ −96.4" in text
    assert "✗ −1.3" in text
    assert "ASR not measured" not in text
    assert "Recovery" not in text
    assert "Clean reference" not in text
    assert "inversion.survey.steps 200" in text
    assert "2 min 8 s in all" in text


def test_a_missed_target_is_said(report: Report) -> None:
    report = report.model_copy(update={"target_true": "dress"})
    assert "✗ Missed: the attack planted the target dress" in text_of(render_html(report, [], []))


def test_clean_reference_gets_its_column(report: Report) -> None:
    report = report.model_copy(update={"reference": metrics(ca=0.72, asr=0.031)})
    text = text_of(render_html(report, [], []))
    assert "Clean reference" in text
    assert "3.1 %" in text


@pytest.mark.parametrize("missing", [True, False])
def test_missing_asr_is_said_and_its_rows_hidden(report: Report, missing: bool) -> None:
    for column in ("before", "after"):
        rates = {name: value for name, value in getattr(report, column).items() if name.startswith("ca")}
        if not missing:
            rates |= {"asr": None, "asr_interval": None, "asr_count": None}
        report = report.model_copy(update={column: rates})
    page, card = text_of(render_html(report, [], [])), render_card(report)
    assert "ASR not measured: no trigger was given." in page
    assert "ASR not measured: no trigger was given." in card
    assert "Attack success rate" not in page + card
    assert "71.4 %" in page


def test_a_bare_report_renders() -> None:
    bare = Report(purification=made(), classes=("a", "b"))
    page = render_html(bare.model_copy(update={"before": {"ca": 0.5}, "after": {"ca": 0.5}}), [], [])
    text = text_of(page)
    assert "No backdoor found" in text
    assert "50.0 % → 50.0 %" in text
    assert "±0.0" in text
    assert CAVEAT in text
    assert "<img" not in page
    assert "No backdoor found" in render_html(bare, [], [])
    assert "No backdoor found" in render_card(bare)


def test_a_report_comes_back_from_its_json(report: Report) -> None:
    report = report.model_copy(update={"purification": made(scores=report.purification.scores[:2])})
    values = json.loads(json.dumps(report.to_json()))
    assert Report.model_validate(values) == report
    assert values["purification"]["scores"][1]["class"] == "hat"
    with pytest.raises(ValueError, match="sneaked_in"):
        Report.model_validate({**values, "sneaked_in": 1})


def test_predictions_are_marked_with_symbols(report: Report) -> None:
    text = text_of(render_html(report, [], [Sample(b"", "dress", "hat", "dress", "triggered")]))
    assert "before ✗ hat target after ✓ dress" in text
    assert "With the trigger" in text
    assert "With a dummy trigger" not in text


def test_caveat_and_warnings_stand_above_the_results(report: Report) -> None:
    report = report.model_copy(update={"caveat": "only these classes"})
    text = text_of(render_html(report, [], []))
    assert text.index("only these classes") < text.index("Before and after")
    assert text.index("a warning about") < text.index("Before and after")


def test_rendering_leaves_the_report_alone(report: Report) -> None:
    untouched = report.model_dump_json()
    render_html(report, [], [])
    render_card(report)
    assert report.model_dump_json() == untouched


def test_no_folder_of_the_machine_is_shown(report: Report) -> None:
    for text in (render_html(report, [], []), render_card(report)):
        assert "/some/where" not in text
        assert "suspect.pt" in text


@pytest.mark.parametrize("scale", [1, 3])
def test_png_keeps_size_and_pixels(scale: int) -> None:
    pixels = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for picture in (pixels, pixels.float() / 255):
        result = decoded(to_png(picture, scale))
        assert result.shape == (3, 4 * scale, 6 * scale)
        assert torch.equal(result[:, ::scale, ::scale], pixels)
        assert torch.equal(result[:, scale - 1 :: scale, scale - 1 :: scale], pixels)


def test_png_clips_what_is_out_of_range() -> None:
    picture = torch.tensor([-1.0, 0.5, 2.0, float("nan")]).reshape(1, 1, 4).expand(3, 1, 4)
    assert decoded(to_png(picture.requires_grad_()))[0, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize(
    ("picture", "scale", "message"),
    [
        (torch.zeros(1, 4, 4), 1, "shape"),
        (torch.zeros(2, 3, 4, 4), 1, "shape"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), 1, "floating point"),
        (torch.zeros(3, 4, 4), 0, "scale"),
    ],
)
def test_png_refuses_what_is_no_picture(picture: torch.Tensor, scale: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_png(picture, scale)


def test_difference_is_gray_where_nothing_changed() -> None:
    clean = torch.full((3, 2, 2), 0.4)
    triggered = clean.clone()
    triggered[:, 0, 0] += 0.1
    triggered[:, 1, 1] -= 0.3
    result = amplified_difference(clean, triggered, 2.0)
    expected = torch.tensor([[0.7, 0.5], [0.5, 0.0]]).expand(3, 2, 2)
    torch.testing.assert_close(result, expected)
    in_bytes = amplified_difference((clean * 255).round().byte(), (triggered * 255).round().byte(), 2.0)
    torch.testing.assert_close(in_bytes, expected, atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="shapes differ"):
        amplified_difference(clean, triggered[:, :1], 2.0)
    with pytest.raises(ValueError, match="gain"):
        amplified_difference(clean, triggered, 0.0)


def has_color(png: bytes, color: tuple[int, int, int]) -> bool:
    return bool((decoded(png) == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(dim=0).any())


def test_score_plot_colors_the_suspected_class_only() -> None:
    orange, many = (0xD5, 0x5E, 0x00), [{"class": f"class {i}", "score": float(40 - i)} for i in range(40)]
    assert has_color(plot_scores(many, threshold=3.5, suspected="class 39"), orange)  # beyond the highest 15
    assert not has_color(plot_scores(many, threshold=3.5), orange)
    assert decoded(plot_scores(many)).shape == decoded(plot_scores(many[:15])).shape
    for threshold in (-1e9, 1e9):
        assert decoded(plot_scores(many, threshold=threshold)).shape == decoded(plot_scores(many)).shape
    assert decoded(plot_scores(many[:3])).shape[1] < decoded(plot_scores(many)).shape[1]


def test_plots_take_any_class_name() -> None:
    names = ["$\\frac{1", "cash $5 & $6", "a\nb", "", "帽子", "x" * 300, EVIL]
    assert Image.open(io.BytesIO(plot_scores([{"class": name, "score": -1.0} for name in names]))).format == "PNG"
    rows = [{"class": name, "before": 0.1, "after": 0.2} for name in names]
    assert Image.open(io.BytesIO(plot_class_changes(rows))).format == "PNG"


def test_change_plot_shows_gains_in_blue_and_losses_in_orange() -> None:
    gain, loss = {"class": "a", "before": 0.2, "after": 0.8}, {"class": "b", "before": 0.8, "after": 0.2}
    blue, orange = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    assert [has_color(plot_class_changes([gain]), color) for color in (blue, orange)] == [True, False]
    assert [has_color(plot_class_changes([loss]), color) for color in (blue, orange)] == [False, True]
    assert decoded(plot_class_changes([gain] * 90)).shape == decoded(plot_class_changes([gain] * 30)).shape


def test_plots_refuse_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="no scores"):
        plot_scores([{"class": "a", "score": float("nan")}])
    with pytest.raises(ValueError, match="no class"):
        plot_class_changes([{"class": "a", "before": None, "after": 0.5}])


def front_matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    fields: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return fields


def test_card_says_what_a_reader_needs(report: Report) -> None:
    card = render_card(report)
    fields = front_matter(card)
    assert "base_model" not in fields, "the Hub refuses what is no repository"
    assert fields["library_name"] == "clip-antidote"
    assert fields["pipeline_tag"] == "zero-shot-image-classification"
    assert "clip" in fields["tags"]
    assert fields["license"] == "unknown"
    assert "Base model: open\\_clip:RN50@suspect.pt" in card
    assert "**This form has no gate and no second look**" in card
    assert CAVEAT in card
    assert "Suspected target: **hat**" in card
    assert "| Clean accuracy (CA) | 71.4 % [35.7, 85.7] | 70.1 % [35.0, 85.0] | −1.3 |" in card
    assert "| Attack success rate (ASR) | 96.8 % [48.4, 98.4] | 0.39 % [0.2, 50.2] | −96.4 |" in card
    assert 'ca.PurifiedCLIP.from_pretrained("path/to/this/folder")' in card


@pytest.mark.parametrize(
    ("spec", "base_model"),
    [
        ("hf-hub:org/repo", "org/repo"),
        ("hf:org/repo@main", "org/repo"),
        ("local-dir:/a/b/model", "local-dir:model"),
        (r"open_clip:RN50@C:\models\x.pt", "open_clip:RN50@x.pt"),
        ("open_clip:ViT-B/32", "open_clip:ViT-B/32"),
        ("open_clip:RN50@/a/b:c@d/x.pt", "open_clip:RN50@x.pt"),
        ("/a/b/x.pt", "x.pt"),
        ("tiny", "tiny"),
        ("evil\nlicense: mit", "evil\nlicense: mit"),
    ],
)
def test_card_names_the_base_model(spec: str, base_model: str) -> None:
    model = ModelFacts(spec=spec)
    card = render_card(Report(purification=made(), classes=("a",), model=model))
    fields = front_matter(card)
    on_hub = spec.startswith("hf")
    assert fields.get("base_model") == (base_model if on_hub else None)
    assert fields["license"] == ("apache-2.0" if spec == "tiny" else "unknown")
    assert set(fields) - {"base_model"} == {"license", "library_name", "pipeline_tag", "tags"}
    if not on_hub:
        assert model.public_spec == base_model


def test_card_escapes_names_and_shortens_long_lists(report: Report) -> None:
    report = with_made(report, targets_suspected=("a|b *c*\n# d [x](javascript:0)",))
    report = report.model_copy(update={"classes": (EVIL, *(f"class {i}" for i in range(99)))})
    card = render_card(report)
    assert "<script" not in card
    assert r"**a\|b \*c\* \# d \[x\](javascript:0)**" in card
    assert "and 40 more (see config.json)" in card
    assert "class 98" not in card


def test_the_hub_reads_what_was_measured(report: Report) -> None:
    hub = pytest.importorskip("huggingface_hub")
    named = report.model_copy(update={"data": "/home/somebody/photos", "measured_on": "372 test images"})
    found = hub.ModelCard(render_card(named)).data
    assert found.model_name == "purified CLIP classifier"
    values = {result.metric_type: (result.dataset_name, result.metric_value) for result in found.eval_results}
    assert values["accuracy"] == ("photos (372 test images)", report.after["ca"])
    assert values["asr"][1] == report.after["asr"]
    assert {result.task_type for result in found.eval_results} == {"zero-shot-image-classification"}
    optimistic = named.model_copy(update={"measured_on": "the 9 shots themselves: there are no other images"})
    assert hub.ModelCard(render_card(optimistic)).data.eval_results is None
    assert hub.ModelCard(render_card(named.model_copy(update={"after": {}}))).data.eval_results is None

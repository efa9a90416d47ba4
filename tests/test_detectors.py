"""Detectors of models from the field: their rules by hand, what they find on the embedded models, the command."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import clip_antidote as ca
from clip_antidote.data.images import LabelledImages
from clip_antidote.detectors import DETECTORS
from clip_antidote.detectors.base import Decision, Detected, DetectorConfig
from clip_antidote.detectors.decree import learning_rate, mean_similarity, pl1_norm
from clip_antidote.detectors.detect import detect, make_detector
from clip_antidote.detectors.masks import DynamicWeight, MaskPatterns, Smallest, as_triggers, mask_norms
from clip_antidote.detectors.neural_cleanse import anomaly_indices, flagged_classes
from clip_antidote.errors import DataError, ModelError, UsageError
from clip_antidote.jobs.detect import CAVEAT, DetectorReport
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from conftest import Cli

ONE_TEMPLATE = ("a photo of a {}.",)
QUICK: dict[str, dict[str, Any]] = {
    "neural-cleanse": {"steps": 80, "batch_size": 4, "lr": 0.2, "sample": 24, "precision": "fp32"},
    "decree": {"steps": 80, "batch_size": 16, "precision": "fp32"},
}
"""Short runs that are long enough on the embedded models; in fp32, so that machines agree."""

SHORTEST: dict[str, dict[str, Any]] = {
    "neural-cleanse": {"steps": 6, "batch_size": 2, "window": 1, "sample": 4},
    "decree": {"steps": 6, "batch_size": 2},
}

every_detector = pytest.mark.parametrize("name", DETECTORS.names())


# The rules, by hand


def test_the_anomaly_index_of_neural_cleanse() -> None:
    norms = torch.tensor([10.0, 2.0, 12.0, 11.0, 9.0])
    # median 10; deviations 0, 8, 2, 1, 1, their median 1
    expected = torch.tensor([0.0, 8.0, 2.0, 1.0, 1.0]) / 1.4826
    assert torch.allclose(anomaly_indices(norms), expected)
    assert flagged_classes(norms, 2.0) == [1]
    assert flagged_classes(norms, 0.6) == [1, 4], "the small ones alone, the smallest first"
    assert flagged_classes(norms, 6.0) == []


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    # median 3; deviations 2, 1, 1, 7, their median 1.5
    found = anomaly_indices(torch.tensor([1.0, 2.0, 4.0, 10.0]))
    assert torch.allclose(found, torch.tensor([2.0, 1.0, 1.0, 7.0]) / (1.5 * 1.4826))


def test_equal_norms_accuse_nobody_and_stay_finite() -> None:
    assert anomaly_indices(torch.full((6,), 7.0)).tolist() == [0.0] * 6
    assert bool(anomaly_indices(torch.tensor([1.0, 7.0, 7.0, 7.0])).isfinite().all())


def test_the_norm_of_decree() -> None:
    mask = torch.zeros(1, 10, 10)
    mask[0, :2, :3] = 0.5
    assert pl1_norm(mask) == pytest.approx(6 * 0.5 / 100)
    assert pl1_norm(torch.ones(1, 4, 4)) == 1.0


def test_the_mean_similarity_is_that_of_all_pairs() -> None:
    features = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    pairs = [float(features[i] @ features[j]) for i in range(5) for j in range(5) if i != j]
    assert float(mean_similarity(features)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert float(mean_similarity(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))) == 0.0


def test_the_learning_rate_falls_where_the_authors_have_it_fall() -> None:
    assert [learning_rate(share) for share in (0, 0.19, 0.2, 0.49, 0.5, 0.999)] == [0.5, 0.5, 0.1, 0.1, 0.05, 0.05]


def test_the_weight_follows_success_and_failure() -> None:
    weight = DynamicWeight(2, start=1.0, raised=2.0, lowered=4.0, patience=2, least=0.1, most=3.0)
    seen = []
    for first, second in ((True, False), (True, True), (True, False), (True, False), (False, False), (False, False)):
        weight.update(torch.tensor([first, second]))
        seen.append([round(value, 4) for value in weight.value.tolist()])
    assert [first for first, _ in seen] == [1.0, 2.0, 2.0, 3.0, 3.0, 0.75], "raised after two steps, at most 3"
    assert [second for _, second in seen] == [1.0, 1.0, 1.0, 0.25, 0.25, 0.1], "one success starts the count anew"


def test_the_smallest_mask_that_works_is_kept() -> None:
    def tensors(first: float, second: float) -> torch.Tensor:
        out = torch.zeros(2, 4, 2, 2)
        out[0, 0], out[1, 0] = first, second
        return out

    best = Smallest(tensors(1.0, 1.0))
    for first, second, works in ((0.5, 0.5, [True, False]), (0.7, 0.2, [True, False]), (0.1, 0.3, [False, False])):
        now = tensors(first, second)
        best.update(now, mask_norms(now), torch.tensor(works))
    assert best.norm.tolist() == [2.0, float("inf")]
    assert best.reached.tolist() == [True, False]
    assert mask_norms(best.tensors).tolist() == pytest.approx([2.0, 1.2]), "without success, the last one"


def test_triggers_look_as_they_did_while_they_were_optimized() -> None:
    bank = MaskPatterns(2, 8, generator=torch.Generator().manual_seed(0))
    tensors, images = bank.tensors().detach(), torch.rand(3, 3, 8, 8)
    assert 0 <= float(tensors.min()) < 0.05
    assert 0.95 < float(tensors.max()) <= 1
    triggered = MaskPatterns.put_on(tensors, images)
    for trigger, expected in zip(as_triggers(tensors), triggered, strict=True):
        assert torch.allclose(trigger(images), expected, atol=1e-6)


# What they are for


@pytest.fixture(scope="module")
def found(tiny: DualEncoder, train_images: LabelledImages) -> dict[tuple[str, str], Detected]:
    """Both detectors on the poisoned and the clean embedded model."""
    shots = train_images.sample_shots(16, seed=0)
    return {
        (name, model.spec): detect(model, shots, make_detector(name, QUICK[name]), templates=ONE_TEMPLATE)
        for model in (load_model("demo:badnet"), tiny)
        for name in DETECTORS.names()
    }


def test_neural_cleanse_finds_the_small_mask_of_the_target(found: dict[tuple[str, str], Detected]) -> None:
    made = found["neural-cleanse", "demo:badnet"].decision
    norms = {entry.name: entry.norm for entry in made.classes}
    others = torch.tensor([norm for name, norm in norms.items() if name != "hat"])
    assert min(norms, key=norms.__getitem__) == "hat"
    assert norms["hat"] < float(others.median()) / 2
    assert made.suspicious
    assert made.targets == ("hat",)
    assert made.score > made.threshold == 2.0
    hat = next(entry for entry in made.classes if entry.name == "hat")
    assert hat.reached
    assert hat.flip_rate > 0.8
    assert hat.score == made.score
    assert made.clean_images == 160


def test_neural_cleanse_flags_nothing_in_the_clean_model(found: dict[tuple[str, str], Detected]) -> None:
    made = found["neural-cleanse", "tiny"].decision
    assert not made.suspicious
    assert made.targets == ()
    assert made.suspicion < found["neural-cleanse", "demo:badnet"].decision.suspicion


def test_the_mask_of_decree_is_smaller_in_the_poisoned_model(found: dict[tuple[str, str], Detected]) -> None:
    poisoned, clean = (found["decree", spec].decision for spec in ("demo:badnet", "tiny"))
    assert poisoned.score < clean.score
    assert poisoned.suspicion > clean.suspicion
    assert poisoned.suspicious
    assert poisoned.threshold == 0.1
    assert not poisoned.targets
    assert not poisoned.classes


def test_triggers_of_decree_make_images_alike(
    found: dict[tuple[str, str], Detected], test_images: LabelledImages
) -> None:
    model = load_model("demo:badnet")
    images = test_images.subset(range(24)).tensor(model.image_size).float() / 255
    (trigger,) = found["decree", "demo:badnet"].triggers
    with torch.no_grad():
        before, after = (float(mean_similarity(model.encode_images(x))) for x in (images, trigger(images)))
    assert after > 0.9 > before


# What every detector keeps to


@pytest.fixture
def few(train_images: LabelledImages) -> LabelledImages:
    return train_images.sample_shots(1, seed=0)


@every_detector
def test_the_same_seed_gives_the_same(name: str, small_model: OpenCLIPEncoder, few: LabelledImages) -> None:
    detector = make_detector(name, SHORTEST[name])
    first, again, other = (detect(small_model, few, detector, seed=seed) for seed in (3, 3, 4))
    for one, two in zip(first.triggers, again.triggers, strict=True):
        assert torch.equal(one.mask, two.mask)
        assert torch.equal(one.pattern, two.pattern)
    unlike = {"seconds": 0.0}
    assert first.decision.model_copy(update=unlike) == again.decision.model_copy(update=unlike)
    assert not torch.equal(first.triggers[0].mask, other.triggers[0].mask)


def test_classes_that_do_not_fit_into_memory_together_give_the_same(
    small_model: OpenCLIPEncoder, few: LabelledImages
) -> None:
    settings = {**SHORTEST["neural-cleanse"], "precision": "fp32"}
    together, apart = (
        detect(small_model, few, make_detector("neural-cleanse", {**settings, "pixels": pixels}))
        for pixels in (2**22, 2 * 32 * 32 * 3)
    )
    for one, two in zip(together.triggers, apart.triggers, strict=True):
        assert torch.allclose(one.mask, two.mask, atol=1e-3)


@every_detector
def test_the_model_is_left_as_it_was(name: str, small_model: OpenCLIPEncoder, few: LabelledImages) -> None:
    small_model.train()
    before = {key: value.clone() for key, value in small_model.state_dict().items()}
    detect(small_model, few, make_detector(name, SHORTEST[name]))
    assert small_model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in small_model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in small_model.state_dict().items())


@every_detector
def test_a_detector_is_documented_and_its_settings_are_checked(name: str) -> None:
    made = make_detector(name)
    assert issubclass(made.config_class, DetectorConfig)
    assert inspect.getdoc(type(made))
    assert make_detector(name, made.config).config == made.config
    for wrong in ({"steps": 0}, {"nonsense": 1}, {"threshold": -1}):
        with pytest.raises(UsageError, match=f"setting '{next(iter(wrong))}'"):
            make_detector(name, wrong)


@every_detector
def test_a_broken_model_ends_in_a_sentence(name: str, small_model: OpenCLIPEncoder, few: LabelledImages) -> None:
    with torch.no_grad():
        next(parameter for key, parameter in small_model.named_parameters() if "visual" in key).fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite at step 1"):
        detect(small_model, few, make_detector(name, SHORTEST[name]))


def test_too_little_to_judge_on_is_said(small_model: OpenCLIPEncoder, train_images: LabelledImages) -> None:
    one = LabelledImages(train_images.subset([0]).source, torch.tensor([0]), ("hat",))
    with pytest.raises(DataError, match="at least 2 clean images"):
        detect(small_model, one, make_detector("decree"))
    three = LabelledImages(train_images.subset([0, 1, 2]).source, torch.arange(3), ("a", "b", "c"))
    made = detect(small_model, three, make_detector("neural-cleanse", SHORTEST["neural-cleanse"])).decision
    assert any("fewer than 4" in note for note in made.notes)
    assert not made.suspicious
    settings = {**SHORTEST["decree"], "similarity": 1.0}
    missed = detect(small_model, three, make_detector("decree", settings)).decision
    assert missed.score == 1.0
    assert not missed.suspicious
    assert "no mask brought the mean cosine" in missed.notes[0]


# The command and the function


def test_the_command_says_whose_rule_it_is(model_folder: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "quick.yaml").write_text("steps: 2\nbatch_size: 2\nsimilarity: 0.01\nthreshold: 1.0\n")
    done = cli(
        *("scan", model_folder, "--data", "embedded:clothing", "--shots", 1),
        *("--detector", "decree", "--config", "quick.yaml", "--json", "d.json"),
    )
    report = DetectorReport.model_validate_json(Path("d.json").read_text())
    assert done.status == int(report.decision.suspicious) == 1
    assert done.out.startswith("suspicious by the rule of decree (PL1-norm")
    assert f"{report.decision.score:.3g}; suspicious below 1; Feng et al." in done.out
    assert f"Note: {CAVEAT}." in done.out
    assert "it looks at no classes" in done.out
    assert report.settings["similarity"] == 0.01
    assert report.caveat == CAVEAT
    assert report.model.spec == model_folder
    assert "p_value" not in json.dumps(report.model_dump(mode="json"))


def test_nothing_found_ends_with_0_and_shows_the_smallest_masks(
    model_folder: str, tmp_path: Path, cli: Cli, train_images: LabelledImages
) -> None:
    (tmp_path / "quick.yaml").write_text("steps: 2\nbatch_size: 2\nsample: 4\nthreshold: 100\n")
    done = cli(
        *("scan", model_folder, "--data", "embedded:clothing", "--shots", 1),
        *("--detector", "neural-cleanse", "--config", "quick.yaml"),
    )
    assert done.status == 0
    assert done.out.startswith("nothing found by the rule of neural-cleanse (anomaly index")
    assert "warning: for 10 of 10 classes no mask sent 99% of the images there" in done.out
    assert all(name in done.out for name in train_images.classes)
    assert "clean images: 10; seconds:" in done.out


def test_in_python_it_is_the_same_call(small_model: OpenCLIPEncoder, few: LabelledImages) -> None:
    found = ca.scan(small_model, few, detector="decree", settings=SHORTEST["decree"], seed=2)
    assert isinstance(found, DetectorReport)
    assert isinstance(found.decision, Decision)
    assert found.seed == 2
    assert DetectorReport.model_validate(found.model_dump(mode="json")) == found


def test_the_detectors_are_listed_and_their_settings_shown(cli: Cli) -> None:
    assert cli("ls", "detectors", "--json").json().keys() == {"neural-cleanse", "decree"}
    shown = cli("scan", "tiny", "--detector", "neural-cleanse", "--show-config")
    assert (shown.status, "threshold: 2.0" in shown.out) == (0, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--detector", "nope"], "there is no detector 'nope'; known are neural-cleanse, decree"),
        (["--detector", "decree", "--html", "a.html"], "--html shows a verdict of the survey"),
        (["--detector", "decree", "--alarm", "0.1"], "the alarm is the survey's"),
        (["--detector", "decree", "--templates", "t.txt"], "'decree' looks at no texts"),
        (["--detector", "decree", "--config", "gone.yaml"], "cannot read the configuration gone.yaml"),
        (["--show-config"], "the survey has no settings"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_use_gets_a_sentence(words: list[str], sentence: str, cli: Cli) -> None:
    done = cli("scan", "tiny", "--data", "embedded:clothing", *words)
    assert done.status == 4
    assert sentence in " ".join(done.err.split())


def test_data_is_needed(cli: Cli, tiny: DualEncoder, few: LabelledImages) -> None:
    for words in ([], ["--detector", "decree"]):
        done = cli("scan", "tiny", *words)
        assert done.status == 4
        assert "--data is needed" in done.err
    with pytest.raises(UsageError, match="the survey has no settings"):
        ca.scan(tiny, few, settings={"steps": 3})  # type: ignore[call-overload]


# Over a population


def row(kind: str, suspicion: float, *, suspicious: bool, rank: int | None = None) -> dict[str, Any]:
    poisoned = kind == "poisoned"
    named = ["hat"] if suspicious else []
    target = "hat" if poisoned else None
    return {
        "kind": kind,
        "suspicion": suspicion,
        "suspicious": suspicious,
        "target": target,
        "named": named,
        "rank": rank,
    }


def test_the_benchmark_sums_up_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    benchmark = importlib.import_module("detectors")
    rows = [
        row("base", 1.0, suspicious=False),
        row("clean", 3.0, suspicious=True),
        row("poisoned", 2.0, suspicious=False, rank=4),
        row("poisoned", 4.0, suspicious=True, rank=1),
    ]
    line = benchmark.summary("neural-cleanse", rows)
    assert line.startswith("neural-cleanse: 2 clean and 2 poisoned models; ROC-AUC 0.750 [")  # 3 of 4 pairs
    assert line.endswith("1 false alarms and 1 found, the target named in 1, its mask the smallest in 1")
    assert benchmark.summary("decree", rows[:2]).endswith("2 clean and 0 poisoned models; a ROC needs both")


def test_the_benchmark_makes_no_row_twice(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    benchmark = importlib.import_module("detectors")
    monkeypatch.setattr(benchmark, "SHOTS", 1)
    monkeypatch.setattr(benchmark, "load_model", lambda spec: load_model(model_folder))
    quick = {name: make_detector(name, SHORTEST[name]) for name in DETECTORS.names()}
    monkeypatch.setattr(benchmark, "make_detector", quick.__getitem__)
    facts = {"kind": "clean", "base": "a", "tower": "vit", "recipe": "r", "seconds": 1.0, "sha256": "s"}
    measured = {"ca": [1, 2], "mean_per_class_recall": 0.5}
    records = tmp_path / "records"
    records.mkdir()
    lines = [json.dumps({"name": name, "measured": measured, **facts}) + "\n" for name in ("one", "two")]
    (records / "models.jsonl").write_text("".join(lines))
    words = ["x", str(tmp_path), "--data", "embedded:clothing", "--records", str(records), "--out", "out.json"]
    monkeypatch.chdir(tmp_path)
    made = []
    for more in (["--models", "one", "--detector", "decree"], [], []):
        monkeypatch.setattr("sys.argv", [*words, *more])
        benchmark.main()
        made.append(json.loads(Path("out.json").read_text())["rows"])
    assert [(each["model"], each["detector"]) for each in made[0]] == [("one", "decree")]
    assert len(made[1]) == 4
    assert made[1][0] == made[0][0]
    assert made[2] == made[1]
    assert "decree: 2 clean and 0 poisoned models; a ROC needs both" in capsys.readouterr().out

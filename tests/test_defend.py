"""The one call for all defenses: what each declares, who is refused, what `defend` writes and measures."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch

import clip_antidote as ca
from clip_antidote.benchmark.cells import LoadedSuspect
from clip_antidote.benchmark.grid import DefenseChoice, GridConfig, SuspectConfig, run_grid
from clip_antidote.benchmark.store import read_runs
from clip_antidote.benchmark.tables import refused_table
from clip_antidote.cli import benchmark as cli_benchmark
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.base import Defense, Given, Outcome, Truth
from clip_antidote.defenses.defend import make_defense
from clip_antidote.defenses.held_out import clean_accuracy, hold_out
from clip_antidote.defenses.profile import Needs, Profile
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.refusal import refusal
from clip_antidote.errors import DataError, RefusedError, UsageError
from clip_antidote.jobs.known_attack import known_attack
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.image_tower import map_features, scaled_norms, transformer_blocks
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from conftest import Cli


def test_every_defense_has_its_profile() -> None:
    assert sorted(PROFILES) == sorted(DEFENSES.names())
    for name in DEFENSES.names():
        made = make_defense(name, seed=3)
        assert made.profile is PROFILES[name]
        assert made.config.seed == 3
        assert made.profile.differs
        assert inspect.getdoc(type(made))
    with pytest.raises(UsageError, match="no defense 'nope'"):
        make_defense("nope")
    with pytest.raises(UsageError, match="steps_"):
        make_defense("cleanclip", {"steps_": 3})


def profile(**needs: object) -> Profile:
    return Profile(paper="none", changes=(), needs=Needs.model_validate(needs), differs="-")


@pytest.fixture
def two_classes(photos: Path) -> LabelledImages:
    return ca.load_images(str(photos))


def test_each_need_is_refused_where_it_is_missing_and_only_there(
    tiny: DualEncoder, small_model: OpenCLIPEncoder, two_classes: LabelledImages
) -> None:
    cnn, vit = Given(tiny, two_classes), Given(small_model, two_classes)
    told = Given(tiny, two_classes, truth=Truth())
    cases: list[tuple[Profile, Given, str | None]] = [
        (profile(), cnn, None),
        (profile(vit=True), cnn, "needs a ViT image tower"),
        (profile(vit=True), vit, None),
        (profile(norms=True), cnn, None),
        (profile(projection=True), cnn, None),
        (profile(projection=True), vit, None),
        (profile(truth=True), cnn, "is an oracle"),
        (profile(truth=True), told, None),
        (profile(base=True), cnn, "name it with --base"),
        (profile(base=True), Given(tiny, two_classes, base=tiny), None),
        (profile(base=True), Given(tiny, two_classes, base=small_model), "of the suspect's architecture"),
        (profile(shots=3), cnn, None),
        (profile(shots=4), cnn, "at least 4 clean images of every class, but 'cat' has 3"),
        (profile(images=6), cnn, None),
        (profile(images=7), cnn, "at least 7 clean images, there are 6"),
    ]
    for asked, given, sentence in cases:
        found = refusal("x", asked, given)
        assert found is None if sentence is None else found is not None and sentence in found
    for norm in scaled_norms(small_model):
        norm.register_parameter("weight", None)
    bare = refusal("x", profile(norms=True), vit)
    assert bare is not None
    assert "normalization layers" in bare


def test_parts_of_image_towers(tiny: DualEncoder, small_model: OpenCLIPEncoder) -> None:
    assert transformer_blocks(tiny) == []
    assert len(transformer_blocks(small_model)) == 1
    assert len(scaled_norms(tiny)) == 14, "timm's resnet10t"
    for model in (load_model("tiny"), small_model):
        images = torch.rand(2, 3, model.image_size, model.image_size)
        turned = torch.linalg.qr(
            torch.randn(model.encode_images(images).shape[1], model.encode_images(images).shape[1])
        )[0]
        wanted = model.encode_images(images) @ turned.T
        map_features(model, turned)
        torch.testing.assert_close(model.encode_images(images), wanted, atol=1e-5, rtol=1e-4)


def test_held_out_shots_are_apart_and_of_every_class(two_classes: LabelledImages) -> None:
    kept, held = hold_out(two_classes, seed=0)
    assert held.labels.bincount().tolist() == [1, 1]
    assert kept.labels.bincount().tolist() == [2, 2]
    names = [*kept.names, *held.names]
    assert sorted(names) == sorted(two_classes.names)
    assert sorted(hold_out(two_classes, seed=0)[1].labels.tolist()) == [0, 1]


def test_clean_accuracy_by_hand(small_model: OpenCLIPEncoder, two_classes: LabelledImages) -> None:
    """One class weight is the mean feature, the other its opposite: all are called the first class."""
    pixels = two_classes.tensor(32).float() / 255
    with torch.no_grad():
        mean = small_model.encode_images(pixels).mean(dim=0)
    weights = torch.stack([mean, -mean], dim=1)
    assert clean_accuracy(ZeroShotClassifier(small_model, weights, two_classes.classes), two_classes) == 0.5


class Spy(Defense):
    """Keeps what it is given."""

    profile = PROFILES["none"]
    seen: list[Given] = []  # noqa: RUF012

    def apply(self, given: Given) -> Outcome:
        self.seen.append(given)
        return Outcome(ZeroShotClassifier.from_templates(given.model, given.shots.classes), trained=7)


@pytest.mark.parametrize("oracle", [False, True])
def test_the_truth_is_kept_from_all_but_oracles(
    oracle: bool, small_model: OpenCLIPEncoder, two_classes: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spy, "profile", profile(truth=oracle))
    monkeypatch.setitem(DEFENSES.entries, "spy", (f"{__name__}:Spy", "keeps what it is given"))
    Spy.seen.clear()
    made = ca.defend(small_model, two_classes, "spy", truth=Truth(target="cat"))
    assert (made.trained, made.clean_images) == (7, 6)
    assert (Spy.seen[0].truth is not None) == oracle


def test_no_defense_is_the_suspect(tiny: DualEncoder, two_classes: LabelledImages) -> None:
    made = ca.defend(tiny, two_classes, "none")
    assert made.classifier.model is tiny
    assert (made.trained, made.clean_images) == (0, 0)


def test_defend_measures_and_writes(cli: Cli, photos: Path, model_folder: str, tmp_path: Path) -> None:
    ran = cli("defend", model_folder, "--data", photos, "--defense", "none", "--shots", 2, "--json")
    assert ran.status == 0
    report = ran.json()
    assert report == json.loads((tmp_path / "defended" / "defended.json").read_text())
    assert report["before"] == report["after"], "nothing was done"
    assert report["kept"] == "weights"
    again = ["defend", model_folder, "--data", photos, "--shots", 2, "--trigger", "badnet", "--target", "dog"]
    (tmp_path / "fast.yaml").write_text("rates: [0.001]\ntraining: {steps: 1, batch_size: 4}\n")
    told = cli(*again, "--defense", "cleanclip", "--config", "fast.yaml")
    assert told.status == 0
    assert "after cleanclip" in told.out
    assert "learning_rate: 0.001" in told.out
    report = json.loads((tmp_path / "defended" / "defended.json").read_text())
    assert {"asr", "pa", "target_ca"} <= report["after"].keys()
    assert report["kept"] == "model"
    assert cli("evaluate", "local-dir:defended", "--data", photos, "--json", "m.json").status == 0
    assert cli("defend", model_folder, "--defense", "cleanclip", "--show-config").out.startswith("training:")


WRONG = [
    (["--defense", "nope"], 4, "no defense 'nope'"),
    (["--defense", "oracle", "--shots", 1], 3, "oracle"),
    (["--defense", "cleanclip", "--shots", 1], 3, "at least 2 clean images of every class"),
    (["--target", "cat"], 4, "name the trigger"),
    (["--trigger", "badnet", "--target", "cow", "--shots", 1], 4, "'cow' is not one of the 2 classes"),
    (["--attack", "nowhere"], 2, "holds no poisoned model: attack.json is missing"),
]


@pytest.mark.parametrize(("arguments", "status", "sentence"), WRONG)
def test_wrong_use_gets_one_sentence(
    arguments: list[str], status: int, sentence: str, cli: Cli, photos: Path, model_folder: str, tmp_path: Path
) -> None:
    ran = cli("defend", model_folder, "--data", photos, *arguments)
    assert (ran.status, ran.err.count("error:")) == (status, 1)
    assert sentence in ran.err
    assert not (tmp_path / "defended").exists()


def test_a_record_without_a_target_is_none_to_measure_with(tmp_path: Path) -> None:
    (tmp_path / "attack.json").write_text('{"target": 3}')
    with pytest.raises(DataError, match="names no target class"):
        known_attack(tmp_path, None, None)


def test_ls_shows_needs(cli: Cli) -> None:
    rows = cli("ls", "defenses", "--json").json()
    assert list(rows) == DEFENSES.names()
    assert rows["oracle"]["needs"].startswith("the true trigger")
    assert rows["cbpt"]["changes"] == "prompts"


def test_a_refused_cell_is_shown_with_its_reason(
    problem: str, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = GridConfig(
        model=model_folder,
        shots=1,
        seeds=(0,),
        suspects=(SuspectConfig(attack="clean"),),
        defenses=(DefenseChoice(defense="none"), DefenseChoice(defense="cleanclip")),
    )
    records = list(run_grid(grid, problem, tmp_path / "bench"))
    assert [record.refused is None for record in records] == [True, False]
    assert [run.defense for run in read_runs(tmp_path / "bench")] == ["none"]
    refused = read_runs(tmp_path / "bench", refused=True)
    assert "| clean | cleanclip | refused: 'cleanclip' needs at least 2" in refused_table(refused)
    assert list(run_grid(grid, problem, tmp_path / "bench")) == records, "a refusal is a result and not run again"
    cli_benchmark.table(tmp_path / "bench")
    said = capsys.readouterr().out
    assert "refused: 'cleanclip'" in said
    assert LoadedSuspect(grid.suspects[0], grid, problem, tmp_path, "cpu").base.spec == model_folder


def test_a_refusal_is_an_error_of_its_own(tiny: DualEncoder, two_classes: LabelledImages) -> None:
    with pytest.raises(RefusedError, match="oracle") as refused:
        ca.defend(tiny, two_classes, "oracle")
    assert refused.value.exit_status == 3

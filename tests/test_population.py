"""A population is made row by row, by several processes if one likes, and every row can be made again."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from clip_antidote.benchmark.populating import make_population
from clip_antidote.benchmark.population import (
    LookConfig,
    PopulationConfig,
    VariantConfig,
    all_rows,
    chosen_rows,
    read_population,
)
from clip_antidote.benchmark.surveys import draw_classes, read_surveys, survey_population
from clip_antidote.config import read_yaml
from clip_antidote.errors import DataError, UsageError
from clip_antidote.models.build import check_supported
from conftest import SMALL, Cli

RECIPE = Path(__file__).parents[1] / "recipes" / "population.yaml"
SHORT = {"steps": 1, "batch_size": 4, "precision": "fp32"}


@pytest.fixture
def config() -> PopulationConfig:
    base = {"name": "a", "tower": "vit", "model": SMALL, "training": {"store_size": 36, "training": SHORT}}
    return PopulationConfig.build(
        {
            "bases": [base, {**base, "name": "b"}],
            "clean": [{"label": "captions", "settings": {"slice": {"wording": "captions"}, "training": SHORT}}],
            "poisoned": [
                {"label": "badnet", "attack": "badnet", "settings": {"wording": "sentences", "training": SHORT}},
                {"label": "sig", "attack": "sig", "only": ["b"], "settings": {"training": SHORT}},
            ],
            "targets": ["cat", "sea horse", "dog"],
        }
    )


def test_rows_by_hand(config: PopulationConfig) -> None:
    names = [row.name for row in all_rows(config)]
    assert names == [
        "a",
        "b",
        "a-clean-captions",
        "b-clean-captions",
        "a-badnet-cat",
        "b-badnet-sea_horse",
        "b-sig-dog",
    ]
    recipes = [row.recipe for row in all_rows(config)]
    assert all(recipes.count(recipe) == 1 for recipe in recipes[2:]), "no two fine-tunes are the same"


def test_some_models_come_with_the_bases_they_need(config: PopulationConfig) -> None:
    assert [row.name for row in chosen_rows(config, ["b-sig-dog"])] == ["b", "b-sig-dog"]
    assert chosen_rows(config) == all_rows(config)
    with pytest.raises(UsageError, match=r"no model 'b-sig-cat'; did you mean .*b-sig-dog"):
        chosen_rows(config, ["b-sig-dog", "b-sig-cat"])


def test_the_population_of_the_recipe_is_as_large_and_as_mixed_as_it_should_be() -> None:
    config = PopulationConfig.build(read_yaml(RECIPE))
    rows = all_rows(config)
    for base in (base for base in config.bases if base.spec is None):
        check_supported(base.model)
        assert 48 <= base.model["vision_cfg"]["image_size"] <= 80
    assert len({base.tower for base in config.bases}) >= 4
    assert sum(row.kind != "poisoned" for row in rows) >= 60
    poisoned = [row for row in rows if row.kind == "poisoned"]
    assert len(poisoned) >= 60
    assert len({row.target for row in poisoned}) >= 20
    assert len({row.name for row in rows}) == len(rows)


def test_models_are_made_once_and_again_where_their_row_changed(
    config: PopulationConfig, problem: str, tmp_path: Path
) -> None:
    out = tmp_path / "population"
    first = [record.name for record in make_population(config, problem, out, names=["b-sig-dog"])]
    assert first == ["b", "b-sig-dog"]
    made = [record.name for record in make_population(config, problem, out)]
    assert sorted(made + first) == sorted(row.name for row in all_rows(config))
    records = read_population(out)
    assert records["b-sig-dog"].measured.asr is not None
    assert records["b-sig-dog"].reference is not None
    assert records["a-clean-captions"].measured.asr is None
    assert list(make_population(config, problem, out)) == []
    with (out / "models.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"name": "cut off')
    variant = config.poisoned[1].model_copy(update={"settings": {"training": {**SHORT, "lr": 1e-5}}})
    changed = config.model_copy(update={"poisoned": (config.poisoned[0], variant)})
    again = [record.name for record in make_population(changed, problem, out)]
    assert again == ["b-sig-dog"]
    assert read_population(out)["b-sig-dog"].sha256 != records["b-sig-dog"].sha256


@pytest.mark.parametrize("at_once", [False, True])
def test_a_model_with_two_triggers(at_once: bool, config: PopulationConfig, problem: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"training": SHORT, "implant_asr": 0.0, "implant_ca_drop": 1.0}
    if at_once:
        settings["further"] = [{"trigger": "sig", "target": "sea horse"}]
        both = VariantConfig(label="both", attack="multi-target", settings=settings)
    else:
        both = VariantConfig(label="both", attack="badnet", also=("sig",), settings=settings)
    changed = config.model_copy(update={"bases": config.bases[:1], "clean": (), "poisoned": (both,)})
    list(make_population(changed, problem, tmp_path))
    record = read_population(tmp_path)["a-both-cat"]
    assert record.targets == ("cat", "sea horse")
    assert record.further["sea horse"].asr is not None
    assert record.implant_check == "passed"
    assert sorted(file.name for file in (tmp_path / "models").glob("*a-both*")) == ["a-both-cat"]


def test_surveys_are_made_once(config: PopulationConfig, problem: str, tmp_path: Path) -> None:
    settings = {"training": SHORT, "implant_asr": 0.0, "implant_ca_drop": 1.0}
    variant = config.poisoned[0].model_copy(update={"settings": settings})
    few = config.model_copy(update={"bases": config.bases[:1], "clean": (), "poisoned": (variant,)})
    list(make_population(few, problem, tmp_path))
    looks = (LookConfig(shots=1), LookConfig(shots=1, without_target=True))
    with pytest.raises(UsageError, match="has no model 'c'"):
        next(survey_population(tmp_path, problem, looks, names=["a", "c"]))
    one = [(record.model, record.look) for record in survey_population(tmp_path, problem, looks[:1], names=["a"])]
    assert one == [("a", "allx1")]
    made = [(record.model, record.look) for record in survey_population(tmp_path, problem, looks)]
    assert made == [("a-badnet-cat", "allx1"), ("a-badnet-cat", "allx1-without")]
    assert list(survey_population(tmp_path, problem, looks)) == []
    surveys = read_surveys(tmp_path)
    poisoned = surveys["a-badnet-cat", "allx1"]
    assert poisoned.target == poisoned.classes.index("cat")
    assert "cat" not in surveys["a-badnet-cat", "allx1-without"].classes
    assert all(len(values) == len(poisoned.classes) for values in poisoned.values.values())


def test_class_lists_are_drawn_with_and_without_the_target() -> None:
    classes = tuple("abcdefgh")
    drawn = draw_classes(classes, ("c",), LookConfig(classes=4), seed=0)
    assert len(drawn) == 4
    assert "c" in drawn
    assert drawn == sorted(drawn)
    assert "c" not in draw_classes(classes, ("c",), LookConfig(without_target=True), seed=0)
    assert draw_classes(classes, (), LookConfig(), seed=0) == list(classes)


def test_a_row_that_another_process_works_on_is_left_to_it(
    config: PopulationConfig, problem: str, tmp_path: Path
) -> None:
    out = tmp_path / "population"
    (out / ".locks").mkdir(parents=True)
    with (out / ".locks" / "a").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first = make_population(config, problem, out, wait=0.0)
        assert next(first).name == "b", "the first base is being made"
        assert next(first).name == "b-clean-captions", "what is made of it has to wait"
        del first
    assert not (out / "models" / "a").exists()


def test_the_command_and_a_wrong_recipe(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("bases: []\ntargets: []\n")
    ran = cli("benchmark", "population", "wrong.yaml", "--data", "problem", "--out", "out")
    assert ran.status == 4
    assert "targets" in ran.err
    with pytest.raises(UsageError, match=r"bases\.0\.tower"):
        PopulationConfig.build({"bases": [{"name": "a", "towers": "x", "model": {}}], "targets": ["cat"]})
    with pytest.raises(UsageError, match=r"targets\.0'.*becomes part of a folder's name"):
        PopulationConfig.build({"bases": [], "targets": ["../../x"]})


@pytest.mark.parametrize("line", [b"{}", b"[", b"\xff", b'{"name": "../x"}', b"[" * 100_000])
def test_broken_manifests_are_a_sentence(line: bytes, tmp_path: Path) -> None:
    for name, read in (("models.jsonl", read_population), ("surveys.jsonl", read_surveys)):
        (tmp_path / name).write_bytes(line + b"\n" + b"cut off")
        with pytest.raises(DataError, match=rf"line 1 of .*{name} is not a record") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)
        (tmp_path / name).write_bytes(b"cut off")
        assert read(tmp_path) == {}


def test_a_model_of_a_manifest_lies_in_its_folder(tmp_path: Path) -> None:
    rates = {"ca": [1, 2]}
    good = {"name": "a", "kind": "base", "base": "a", "tower": "vit", "recipe": "x", "measured": rates}
    for name in ("a", "../a"):
        line = json.dumps({**good, "name": name, "seconds": 1.0, "sha256": "x"})
        (tmp_path / "models.jsonl").write_text(line + "\n")
        if name == "a":
            assert set(read_population(tmp_path)) == {"a"}
    with pytest.raises(DataError, match="is not a record"):
        read_population(tmp_path)

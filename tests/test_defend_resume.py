"""An interrupted defense goes on where it was, and ends as one that was never interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import clip_antidote as ca
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.defend import defend
from clip_antidote.defenses.tower_tuning import descend
from clip_antidote.defenses.unfinished import kept_in
from clip_antidote.models.build import build_open_clip
from conftest import Cli, draw_photos
from test_defense_methods import CONVOLUTIONAL, DEEP_VIT, QUICK

LOOPS = ("clip_antidote.defenses.tower_tuning", "clip_antidote.training.loop")


@contextmanager
def interrupted_at_once() -> Iterator[Callable[[], bool]]:
    yield lambda: True


def interrupt_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in LOOPS:
        monkeypatch.setattr(f"{module}.held_interrupt", interrupted_at_once)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    folder = draw_photos(tmp_path_factory.mktemp("shots") / "photos", classes=("cat", "dog", "cow"), count=6)
    return ca.load_images(str(folder))


@pytest.mark.parametrize("name", sorted(QUICK.keys() - {"finetune", "coop-shared"}))  # are cleanclip and coop
def test_a_defense_that_is_interrupted_after_every_step_ends_the_same(
    name: str, shots: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    suspect, base = (build_open_clip(DEEP_VIT if name == "rvpt" else CONVOLUTIONAL) for _ in range(2))
    settings = QUICK[name] | ({"outer_steps": 2} if name == "ibau" else {})
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = defend(suspect, shots, name, settings, seed=1, base=base)
    interrupt_every_step(monkeypatch)
    interruptions = 0
    while True:
        try:
            with kept_in(tmp_path) as unfinished:
                made = defend(suspect, shots, name, settings, seed=1, base=base)
            break
        except KeyboardInterrupt:
            interruptions += 1
            assert interruptions < 30, "it does not get on"
    assert interruptions >= 2
    assert unfinished.resumed
    assert torch.equal(made.classifier(images), whole.classifier(images))
    assert made.details == whole.details


def descent(weight: torch.nn.Parameter, drawn: torch.Generator) -> list[float]:
    optimizer = torch.optim.Adam([weight], lr=0.1)
    return descend(
        optimizer,
        lambda step: (weight * torch.rand(2, generator=drawn)).sum(),
        steps=4,
        description="trying",
        generators=[drawn],
    )


def test_what_is_kept_is_only_used_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(size: int = 2) -> tuple[torch.nn.Parameter, torch.Generator]:
        return torch.nn.Parameter(torch.ones(size)), torch.Generator().manual_seed(3)

    weight, drawn = begin()
    wanted = descent(weight, drawn)
    with monkeypatch.context() as patch:
        interrupt_every_step(patch)
        with kept_in(tmp_path), pytest.raises(KeyboardInterrupt):
            descent(*begin())
    (file,) = tmp_path.iterdir()
    state = torch.load(file, weights_only=True)
    assert state["losses"].tolist() == wanted[:1]
    other = torch.nn.Parameter(torch.ones(1))
    broken = [
        b"no state",
        file.read_bytes()[:-50],
        state | {"losses": torch.zeros(9)},
        state | {"tensors": [torch.ones(3)]},
        state | {"generators": []},
        state | {"optimizer": torch.optim.SGD([other]).state_dict()},
        state | {"optimizer": state["optimizer"] | {"state": {0: {"exp_avg": torch.ones(5)}}}},
        state | {"optimizer": state["optimizer"] | {"state": {0: {}}}},
        {key: value for key, value in state.items() if key != "done"},
    ]
    for content in broken:
        file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
        again, generator = begin()
        with kept_in(tmp_path), pytest.warns(UserWarning, match="starts again"):
            assert descent(again, generator) == wanted
        assert torch.equal(again, weight)
    with kept_in(tmp_path):
        finished, generator = begin()
        assert descent(finished, generator) == wanted
    assert torch.equal(finished, weight)
    assert torch.equal(generator.get_state(), drawn.get_state()), "what comes next draws what it would have drawn"


def test_the_command_goes_on(
    model_folder: str, photos: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yaml").write_text("steps: 3\nbatch_size: 4\n")
    command = ["defend", model_folder, "--data", photos, "--shots", 2, "--config", "s.yaml", "--defense", "apt"]
    whole = cli(*command, "--out", "whole", "--json").json()
    assert whole["warnings"] == []
    with monkeypatch.context() as patch:
        interrupt_every_step(patch)
        assert cli(*command, "--out", "out").status == 130
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.glob(".out.state-*/*")] == ["part-1.pt"]
    again = cli(*command, "--out", "out", "--json").json()
    assert "went on" in again["warnings"][0]
    assert again["after"] == whole["after"]
    assert not list(tmp_path.glob(".out.state-*")), "what was kept is gone with the result"
    assert json.loads((tmp_path / "out" / "defended.json").read_text())["warnings"] == again["warnings"]


def test_cbpt_keeps_its_search(
    model_folder: str, photos: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "inversion: {survey: {steps: 1, wave_most: 1}, final_steps: 1, form_steps: 1}\n"
    (tmp_path / "s.yaml").write_text(settings + "tuning: {steps: 1}\nprecision: fp32\npool: 4\n")
    command = ["defend", model_folder, "--data", photos, "--shots", 2, "--config", "s.yaml", "--defense", "cbpt"]

    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clip_antidote.purification.pipeline.tune_prompts", interrupt)
        assert cli(*command, "--out", "out").status == 130
    monkeypatch.setattr("clip_antidote.defenses.cbpt.search_targets", interrupt)
    assert cli(*command, "--out", "out").status == 0, "the search is not made again"

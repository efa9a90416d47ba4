"""Defenses, attacks, triggers and scores of other packages: found by entry points, imported on use, contained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import clip_antidote as ca
from clip_antidote.attacks import ATTACKS
from clip_antidote.benchmark.grid import GridConfig, SuspectConfig, run_grid
from clip_antidote.defenses import DEFENSES
from clip_antidote.errors import PluginError, UsageError
from clip_antidote.models import DualEncoder
from clip_antidote.screening import SCORES
from clip_antidote.triggers import TRIGGERS, load_trigger
from conftest import Cli
from test_startup import HEAVY, SCRIPT

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package on the path, as an installation would leave it: modules beside a folder of metadata."""

    def write(name: str, points: str, *, metadata: str | None = None, **modules: str) -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: {name} for tests\n"
        (info / "METADATA").write_text(about if metadata is None else metadata)
        (info / "entry_points.txt").write_text(points)
        for module, code in modules.items():
            (site / f"{module}.py").write_text(code)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(site))
        return site

    return write


@pytest.fixture
def blunt(install: Install, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of the documentation."""
    profile, defense = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    points = "".join(
        f"[{group}]\n{line}\n".replace('"', "")
        for group, line in re.findall(r'\[project\.entry-points\."(.*?)"\]\n(.*)\n', PAGE)
    )
    assert points.count("blunt = ") == 2
    return install("blunt-defense", points, blunt_profile=profile, blunt_defense=defense)


def test_the_example_of_the_page_defends(
    blunt: Path, small_model: DualEncoder, photos: Path, problem: str, model_folder: str, tmp_path: Path
) -> None:
    shots = ca.load_images(str(photos))
    hand = ca.defend(small_model, shots, "none").classifier
    made = ca.defend(small_model, shots, "blunt", {"share": 0.5})
    assert made.trained == 0
    assert made.clean_images == 0, "its profile says that it needs none"
    before, after = (c.weights[0] @ c.weights[1] for c in (hand, made.classifier))
    assert after > before, "the classes come closer"
    with pytest.raises(UsageError, match="share_"):
        ca.defend(small_model, shots, "blunt", {"share_": 1})
    suspects = (SuspectConfig(attack="clean"),)
    grid = GridConfig(model=model_folder, shots=1, seeds=(0,), suspects=suspects, defenses=("blunt",))
    (record,) = run_grid(grid, problem, tmp_path / "bench")
    assert (record.defense, record.refused) == ("blunt", None)


def test_ls_says_where_a_plugin_comes_from(blunt: Path, cli: Cli) -> None:
    rows = cli("ls", "defenses", "--json").json()
    assert list(rows) == [*DEFENSES.names(), "blunt"]
    assert rows["blunt"] == {
        "text": "blunt-defense for tests (from blunt-defense 1.0)",
        "needs": "nothing",
        "changes": "prompts",
        "paper": "an example, from no paper",
        "package": "blunt-defense 1.0",
    }
    assert rows["cbpt"]["package"] == "clip-antidote"
    assert "blunt" in cli("ls", "defenses").out


@pytest.mark.parametrize("kind", ["attacks", "defenses", "triggers", "scores"])
def test_ls_imports_no_plugin(kind: str, blunt: Path, install: Install) -> None:
    site = install("heavy", f"[clip_antidote.{kind}]\nheavy = heavy_part:X\n", heavy_part="import torch")
    code = f"import sys; sys.path[:0] = {[str(blunt), str(site)]}\n" + SCRIPT % json.dumps([*HEAVY, "heavy_part"])
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(["ls", kind, "--json"])], capture_output=True, text=True
    )
    assert ran.stderr.splitlines()[-1] == "imported []"
    assert "heavy" in json.loads(ran.stdout)


BROKEN = {
    "no module": ("nowhere_to_be_found:X", "", "ModuleNotFoundError"),
    "no class": ("broken_part:X", "", "AttributeError"),
    "an error": ("broken_part:X", "raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    "an exit": ("broken_part:X", "import sys; sys.exit(3)", "SystemExit"),
    "no code": ("broken_part:X", "def (", "SyntaxError"),
    "another kind": ("broken_part:X", "class X: pass", "does not derive from clip_antidote.defenses.base:Defense"),
    "no class at all": ("broken_part:X", "X = 3", "does not derive from"),
    "no profile": (
        "broken_part:X",
        "from clip_antidote.defenses.base import Defense\nclass X(Defense): pass",
        "has no 'profile'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_one_sentence_and_the_rest_works(
    case: str, blunt: Path, install: Install, cli: Cli, photos: Path, model_folder: str
) -> None:
    place, code, said = BROKEN[case]
    install("broken", f"[clip_antidote.defenses]\nbroken = {place}\n", broken_part=code)
    listed = cli("ls", "defenses")
    assert listed.status == 0
    assert "broken" in listed.out
    ran = cli("defend", model_folder, "--data", photos, "--shots", 1, "--defense", "broken", "--out", "a")
    assert (ran.status, ran.err.count("error:")) == (2, 1)
    assert "the defense 'broken' of the package broken 1.0" in ran.err
    assert said in ran.err
    for name in ("none", "blunt"):
        worked = cli("defend", model_folder, "--data", photos, "--shots", 1, "--defense", name, "--out", name)
        assert worked.status == 0


def test_a_profile_that_fails_is_said_in_its_row(install: Install, cli: Cli) -> None:
    points = "[clip_antidote.defenses]\nodd = odd:X\n[clip_antidote.profiles]\nodd = odd_profile:P\n"
    install("odd", points, odd_profile="P = 3")
    ran = cli("ls", "defenses", "--json")
    assert ran.status == 0
    assert "does not derive from" in ran.json()["odd"]["needs"]
    assert list(ran.json()) == [*DEFENSES.names(), "odd"]


def test_no_plugin_takes_a_name_that_is_taken(install: Install, cli: Cli) -> None:
    before = DEFENSES.get("none")
    install("usurper", "[clip_antidote.defenses]\nnone = usurper:X\nbad/name = usurper:X\n", usurper="X = 1")
    install("first", "[clip_antidote.defenses]\nshared = first:X\n")
    install("second", "[clip_antidote.defenses]\nshared = second:X\n")
    assert DEFENSES.get("none") is before
    ran = cli("ls", "defenses", "--json")
    assert list(ran.json()) == DEFENSES.names()
    warnings = sorted(line for line in ran.err.splitlines() if line.startswith("warning:"))
    assert len(warnings) == 3
    assert "'bad/name' of the package usurper 1.0 is left out" in warnings[0]
    assert "'none' of the package usurper 1.0 is left out: clip-antidote has one of that name" in warnings[1]
    assert "the packages second 1.0 and first 1.0 both have one" in warnings[2]
    with pytest.raises(PluginError, match="both have one"):
        DEFENSES.get("shared")


def test_metadata_that_cannot_be_read_leaves_the_rest(install: Install, blunt: Path) -> None:
    site = install("garbled", "[clip_antidote.defenses]\nno equals sign\n", metadata="")
    (site / "binary-1.0.dist-info").mkdir()
    (site / "binary-1.0.dist-info" / "entry_points.txt").write_bytes(b"[clip_antidote.defenses]\n\xff\xfe = x:y\n")
    found = DEFENSES.plugins()
    assert list(found.known) == ["blunt"]
    assert all("cannot be read" in sentence for sentence in found.left_out.values())
    assert found.left_out


def test_a_package_found_twice_counts_once(install: Install, blunt: Path) -> None:
    points = "[clip_antidote.defenses]\nblunt = older:X\n"
    older = install("older", points, metadata="Metadata-Version: 2.1\nName: Blunt_Defense\nVersion: 0.9\n")
    sys.path.remove(str(older))
    sys.path.append(str(older))
    assert DEFENSES.plugins().known["blunt"].distribution == "blunt-defense 1.0"


PARTS = """
import torch
from clip_antidote.attacks.badnet import BadNetAttack
from clip_antidote.config import Config
from clip_antidote.screening.base import ImageScore
from clip_antidote.triggers.base import Trigger

class Settings(Config):
    step: float = 0.5

class Dim(Trigger):
    name = "dim"
    config_class = Settings
    def _apply(self, images, generator):
        return images * self.config.step

class DimAttack(BadNetAttack):
    name = "dim"
    def make_trigger(self, model, material):
        return Dim()

class Renamed(DimAttack):
    name = "other"

class Flat(ImageScore):
    @classmethod
    def fit(cls, material, config=None):
        return cls()
    def score(self, probe):
        return torch.zeros(1)
"""
POINTS = "".join(
    f"[clip_antidote.{kind}]\n{lines}\n"
    for kind, lines in {
        "triggers": "dim = dim_parts:Dim",
        "attacks": "dim = dim_parts:DimAttack\nrenamed = dim_parts:Renamed",
        "scores": "flat = dim_parts:Flat",
    }.items()
)


def test_triggers_attacks_and_scores_come_from_packages_too(install: Install, cli: Cli, tmp_path: Path) -> None:
    install("dim", POINTS, dim_parts=PARTS)
    trigger = load_trigger("dim")
    trigger.save(tmp_path / "saved")
    assert type(load_trigger(tmp_path / "saved")) is type(trigger) is TRIGGERS.get("dim")
    assert ATTACKS.get("dim")().make_trigger(None, None).name == "dim"  # type: ignore[arg-type]
    assert SCORES.get("flat").__name__ == "Flat"
    for kind, name in (("triggers", "dim"), ("attacks", "dim"), ("scores", "flat")):
        assert "dim for tests (from dim 1.0)" in cli("ls", kind, "--json").json()[name]
    with pytest.raises(PluginError, match="calls itself 'other'"):
        ATTACKS.get("renamed")
    with pytest.raises(UsageError, match=r"no trigger 'dimmer'; known are .*, dim$"):
        load_trigger("dimmer")

"""`demo:badnet`, poisoned on purpose: what its card says holds, and it is read safely."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_antidote.attacks.implant_check import implant_failure
from clip_antidote.attacks.run import AttackResult
from clip_antidote.errors import ModelError, UsageError
from clip_antidote.files import sha256_file
from clip_antidote.jobs.demo import demo_attack
from clip_antidote.models import DualEncoder, downloads, load_model
from clip_antidote.models import difference as kept
from clip_antidote.models.difference import add_difference, write_difference
from clip_antidote.models.loading import DIFFERENCE, demo_folder
from conftest import Cli

FILE = demo_folder("badnet") / DIFFERENCE
CARD = (demo_folder("badnet") / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model(attacked: AttackResult) -> DualEncoder:
    return attacked.model


def test_the_backdoor_is_there(attacked: AttackResult) -> None:
    """By the implant check of the attack, on the embedded photographs, as in the card."""
    clean, poisoned = attacked.before.metrics, attacked.after.metrics
    assert clean.asr is not None
    assert poisoned.asr is not None
    assert poisoned.asr_floor is not None
    assert clean.asr.value < 0.2
    assert poisoned.asr.value >= 0.9
    assert poisoned.asr_floor.value < 0.15, "without the trigger the poisoned model behaves"
    assert poisoned.ca.value >= clean.ca.value - 0.03
    assert implant_failure(demo_attack("badnet", 0), attacked) is None
    rates, stated = poisoned.to_dict(), {}
    for key, label in {"ca": "CA", "asr": "ASR", "asr_floor": "ASR floor", "pa": "PA"}.items():
        row = re.search(rf"^\| {label} \|(.*)\|(.*)\|.*\|$", CARD, re.M)
        assert row is not None
        stated[key] = float(row[2].split("%")[0]) / 100
    assert {key: rates[key] for key in stated} == pytest.approx(stated, abs=0.006)  # two images


def test_the_card_belongs_to_the_file(model: DualEncoder) -> None:
    assert f"SHA-256: `{sha256_file(FILE)}`" in CARD
    assert model.sha256 == sha256_file(FILE)
    assert "**This model has a backdoor. It was put there" in CARD
    assert "purified |" in CARD
    assert FILE.stat().st_size < 2_500_000


def test_the_spec_is_local_and_listed(model: DualEncoder, cli: Cli) -> None:
    assert model.spec == "demo:badnet"
    assert not downloads("demo:badnet")
    listed = cli("ls", "models", "--json").json()
    assert "poisoned on purpose" in listed["demo:badnet"]
    for spec in ("demo:", "demo:blended", "demo:../tiny_clip"):
        with pytest.raises(UsageError, match=r"no poisoned demo model .*; known are badnet"):
            load_model(spec)
    ran = cli("purify", "demo:nothing", "--data", "embedded:clothing")
    assert ran.status == 4
    assert "known are badnet" in ran.err


def some_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (5, 3, 2), "a.bias": (5,), "scale": (), "tokens": (4, 4)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {"n": torch.tensor(3)}


def test_a_difference_is_rounded_to_three_bits(tmp_path: Path) -> None:
    base = some_weights()
    steps = torch.tensor([-3, -2, -1, 0, 1, 3]).view(1, 3, 2) * torch.tensor([1.0, 0.5, 0.25, 2, 0]).view(5, 1, 1)
    other = {name: value + 1 for name, value in base.items()} | {"a.weight": base["a.weight"] + steps}
    write_difference(base, other, tmp_path / "d", base_sha256="x", left_out=lambda name: name == "tokens")
    found = add_difference(base, tmp_path / "d", base_sha256="x")
    for name in ("a.weight", "a.bias", "scale"):
        torch.testing.assert_close(found[name], other[name], atol=1e-6, rtol=0)  # what three bits can say is exact
    assert torch.equal(found["tokens"], base["tokens"])
    assert found["n"] == 3
    assert load_file(tmp_path / "d")["a.weight:codes"].shape == (12,), "30 weights in 90 bits and a rest"
    odd = {**other, "a.weight": torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(1))}
    write_difference(base, odd, tmp_path / "d", base_sha256="x")
    error = (add_difference(base, tmp_path / "d", base_sha256="x")["a.weight"] - odd["a.weight"]).abs()
    largest = (odd["a.weight"] - base["a.weight"]).abs().flatten(1).amax(dim=1)
    assert (error.flatten(1).amax(dim=1) <= largest / 6 * 1.01).all(), "half a step"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a.weight:codes": torch.zeros(15, dtype=torch.uint8)}, "has a.weight, which does not fit"),
        ({"a.weight:codes": torch.zeros(12)}, "has a.weight, which does not fit"),
        ({"a.weight:scales": torch.zeros(6)}, "has a.weight, which does not fit"),
        ({"a.bias": torch.zeros(5, 1)}, "has a.bias, which does not fit"),
        ({"other": torch.zeros(2)}, "has other, which does not fit"),
        ({"tokens:codes": torch.zeros(6, dtype=torch.uint8)}, "has tokens, which does not fit"),
    ],
)
def test_a_difference_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor], said: str, tmp_path: Path
) -> None:
    base = some_weights()
    write_difference(base, base, tmp_path / "d", base_sha256="x", left_out=lambda name: name == "tokens")
    save_file({**load_file(tmp_path / "d"), **change}, tmp_path / "e", metadata={"base_sha256": "x"})
    with pytest.raises(ModelError, match=said):
        add_difference(base, tmp_path / "e", base_sha256="x")


def test_what_is_no_difference_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = some_weights()
    with pytest.raises(ModelError, match="cannot read the difference"):
        add_difference(base, tmp_path / "missing", base_sha256="x")
    (tmp_path / "text").write_text("no safetensors")
    with pytest.raises(ModelError, match="cannot read the difference"):
        add_difference(base, tmp_path / "text", base_sha256="x")
    write_difference(base, base, tmp_path / "d", base_sha256="x")
    with pytest.raises(ModelError, match="belongs to other weights"):
        add_difference(base, tmp_path / "d", base_sha256="y")
    monkeypatch.setattr(kept, "LARGEST", 100)
    with pytest.raises(ModelError, match="more than 100 bytes"):
        add_difference(base, tmp_path / "d", base_sha256="x")

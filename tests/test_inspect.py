"""What an inspection says of honest, broken and hostile checkpoints, and that it runs nothing in them."""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import clip_antidote as ca
from clip_antidote.errors import ModelError, UnsupportedError, UsageError
from clip_antidote.inspection import health
from clip_antidote.inspection.architecture import expected_shapes, guess_architecture
from clip_antidote.inspection.inspect import inspect_files
from clip_antidote.inspection.record import ActivationFacts, Architecture, Inspection
from clip_antidote.inspection.rules import finding
from clip_antidote.jobs import inspect as job
from clip_antidote.jobs.purify import run_purify
from clip_antidote.models import OpenCLIPEncoder, load_model
from clip_antidote.models.build import save_open_clip
from clip_antidote.purification.config import CBPTConfig
from conftest import Cli

State = dict[str, torch.Tensor]


class Attack:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def rules(seen: Inspection) -> set[str]:
    return {found.rule for found in seen.findings}


def weights(name: str) -> State:
    """A state dict of an architecture, all of it views of one small storage."""
    shapes = expected_shapes(name)
    shared = torch.full((max(math.prod(shape) for shape in shapes.values()),), 0.5, dtype=torch.float16)
    return {entry: shared[: math.prod(shape)].view(shape) for entry, shape in shapes.items()}


def changed(model: OpenCLIPEncoder, folder: Path, change: Callable[[State], object]) -> str:
    save_open_clip(model, None, folder)
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    return str(folder)


# What it is


def test_the_embedded_model_is_healthy() -> None:
    seen = ca.inspect("tiny")
    assert not seen.found
    assert not seen.findings
    assert seen.kind == "open_clip folder"
    assert seen.weights is not None
    assert seen.weights.format == "safetensors"
    assert seen.weights.sha256 == load_model("tiny").sha256
    assert seen.text_tower is not None
    assert seen.text_tower.model_dump() == {"context_length": 24, "vocabulary": 49408, "width": 128, "layers": 4}
    assert seen.tensors is not None
    assert seen.tensors.count == 139
    assert seen.zero_shot is not None
    assert seen.zero_shot.images == 100
    assert seen.zero_shot.accuracy > 0.5
    assert seen.activation is not None
    assert seen.activation.name == "GELU"
    assert Inspection.model_validate_json(seen.model_dump_json()) == seen


@pytest.mark.parametrize(
    ("name", "ties"),
    [("RN50", ["RN50", "RN50-quickgelu"]), ("ViT-B-32", ["ViT-B-32", "ViT-B-32-quickgelu"]), ("RN50x4", None)],
)
def test_names_and_shapes_tell_the_architecture(name: str, ties: list[str] | None) -> None:
    guess = guess_architecture(expected_shapes(name))
    assert guess is not None
    assert guess.certainty == "certain"
    assert guess.names == (ties or [name, f"{name}-quickgelu"])


def test_the_meta_device_gives_the_shapes_of_real_models() -> None:
    real = open_clip.create_model("ViT-S-32-alt").state_dict()
    assert expected_shapes("ViT-S-32-alt") == {name: tuple(value.shape) for name, value in real.items()}


def test_half_a_model_is_less_sure() -> None:
    shapes = expected_shapes("RN50")
    some = dict(shapes)
    for name in list(shapes)[5:45]:
        del some[name]
    guess = guess_architecture(some)
    assert guess is not None
    assert guess.certainty == "likely"
    assert guess.names[0] == "RN50"
    assert guess_architecture({"a": (1,), "b": (2, 3)}) is None


def test_a_bare_file_suffices_to_say_how_to_load_it(cli: Cli) -> None:
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights("RN50").items()}}, "RN50.pt")
    seen = inspect_files("RN50.pt")
    assert not seen.findings
    assert seen.architecture is not None
    assert seen.architecture.spec == "open_clip:RN50@RN50.pt"
    assert seen.architecture.ties == ("RN50-quickgelu",)
    assert seen.activation is not None
    assert seen.activation.name is None
    assert seen.text_tower is not None
    assert seen.text_tower.context_length == 77
    assert seen.image_tower is not None
    assert seen.image_tower.layers == (3, 4, 6, 3)
    ran = cli("inspect", "RN50.pt", "--no-zero-shot")
    assert ran.status == 0
    assert "load it as    open_clip:RN50@RN50.pt" in ran.out
    assert "same shapes   RN50-quickgelu" in ran.out
    loaded = cli("purify", "RN50.pt", "--data", "embedded:clothing")
    assert loaded.status == 4
    assert "clip-antidote inspect RN50.pt tells which" in loaded.err


def test_tensors_that_declare_too_much_are_not_made(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**12)}, tmp_path / "m.pt")
    seen = inspect_files(str(tmp_path / "m.pt"))
    assert rules(seen) == {"damaged"}
    assert "far larger than the file" in seen.findings[0].message


def test_openai_entries_mean_quick_gelu(tmp_path: Path) -> None:
    state = weights("RN50")
    for name in ("input_resolution", "context_length", "vocab_size"):
        state[name] = torch.tensor(77)
    state["attn_mask"] = torch.full((3, 3), -torch.inf)
    torch.save(state, tmp_path / "m.pt")
    seen = inspect_files(str(tmp_path / "m.pt"))
    assert not seen.findings, "a mask of minus infinity is no fault"
    assert seen.activation is not None
    assert seen.activation.name == "QuickGELU"
    assert "input_resolution" in seen.activation.evidence


# Health


def test_broken_tensors_are_named(small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    def change(state: State) -> None:
        state["visual.proj"].view(-1)[3] = torch.nan
        state["visual.proj"].view(-1)[4] = -torch.inf
        state["text_projection"].zero_()
        state["transformer.resblocks.0.mlp.c_fc.weight"].view(-1)[0] = -1e6
        state["transformer.resblocks.1.mlp.c_fc.weight"][:40] = 0
        state["transformer.resblocks.1.attn.out_proj.weight"][:1] = 0
        state["transformer.resblocks.1.mlp.c_fc.bias"].zero_()
        state["logit_scale"].fill_(100.0)

    seen = ca.inspect(changed(small_model, tmp_path, change))
    said = {(found.rule, found.tensor) for found in seen.findings}
    assert said == {
        ("not-finite", "visual.proj"),
        ("zero-tensor", "text_projection"),
        ("exploding", "transformer.resblocks.0.mlp.c_fc.weight"),
        ("dead-channels", "transformer.resblocks.1.mlp.c_fc.weight"),
        ("some-dead-channels", "transformer.resblocks.1.attn.out_proj.weight"),
        ("impossible", "logit_scale"),
    }
    assert any("1 NaN and 1 Inf" in found.message for found in seen.findings)
    assert seen.zero_shot is None
    assert any("broken or dangerous" in what for what in seen.skipped)


def test_a_random_model_recognizes_nothing(model_folder: str) -> None:
    seen = ca.inspect(model_folder)
    assert rules(seen) == {"recognizes-nothing"}
    assert seen.zero_shot is not None
    assert seen.zero_shot.accuracy < 0.3


def test_many_of_a_kind_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_PER_RULE", 3)
    save_file({f"t{i}": torch.full((2,), torch.nan) for i in range(10)}, tmp_path / "m.safetensors")
    seen = inspect_files(str(tmp_path / "m.safetensors"))
    assert [found.rule for found in seen.findings] == ["not-finite"] * 4
    assert "7 more" in seen.findings[-1].message


@pytest.mark.parametrize("old", [False, True])
def test_tensors_are_read_as_torch_reads_them(old: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state = {
        "a": base,
        "t": base.T,
        "view": base[2:4, 1:7:2],
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "scalar": torch.tensor(-7.5),
        "none": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "parameter": nn.Parameter(base * 3),
    }
    torch.save(state, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
    from clip_antidote.inspection.formats import tell_format
    from clip_antidote.inspection.tensors import open_tensors

    with open_tensors(tmp_path / "m.pt", tell_format(tmp_path / "m.pt")) as tensors:
        read = {tensor.name: tensor.load() for tensor in tensors if tensor.load is not None}
        kinds = {tensor.name: tensor.dtype for tensor in tensors}
    assert list(read) == list(state)
    for name, value in state.items():
        assert torch.equal(read[name], value.detach()), name
        assert kinds[name] == str(value.dtype).removeprefix("torch.")


def test_torchscript_is_read_without_running_it(tmp_path: Path) -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 2, bias=False)
            self.register_buffer("input_resolution", torch.tensor(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv1(x)

    tower = Tower()
    torch.jit.script(tower).save(str(tmp_path / "m.pt"))
    seen = inspect_files(str(tmp_path / "m.pt"))
    assert seen.weights is not None
    assert seen.weights.format == "TorchScript"
    assert rules(seen) == {"torchscript"}
    assert seen.tensors is not None
    assert seen.tensors.count == 2
    assert seen.tensors.largest == pytest.approx(float(tower.conv1.weight.detach().abs().max()))
    assert seen.activation is not None
    assert seen.activation.name == "QuickGELU"


# Hostile files


@pytest.mark.parametrize("kind", ["zip", "legacy", "protocol 0", "protocol 2", "protocol 4"])
def test_unsafe_globals_are_found_where_they_are(kind: str, tmp_path: Path, cli: Cli) -> None:
    attack, file = Attack(f"touch {tmp_path / 'ran'}"), tmp_path / "evil.pt"
    if kind in ("zip", "legacy"):
        content = {"state_dict": {"a": torch.full((2, 2), torch.nan)}, "x": attack}
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    else:
        file.write_bytes(pickle.dumps(attack, protocol=int(kind[-1])))
    ran = cli("inspect", file, "--json", "seen.json")
    assert ran.status == 1
    seen = Inspection.model_validate_json((tmp_path / "seen.json").read_text())
    (unsafe,) = [item for item in seen.pickles if item.verdict == "unsafe"]
    assert (unsafe.module, unsafe.name) == (os.system.__module__, "system")
    assert unsafe.offset is not None
    data = file.read_bytes()
    code = {"GLOBAL": b"c", "STACK_GLOBAL": b"\x93"}[unsafe.opcode]
    assert data[unsafe.offset : unsafe.offset + 1] == code
    if unsafe.opcode == "GLOBAL":
        assert data[unsafe.offset + 1 :].startswith(f"{unsafe.module}\nsystem\n".encode())
    assert "unsafe-global" in rules(seen)
    if kind in ("zip", "legacy"):
        assert "not-finite" in rules(seen), "the tensors beside it are looked at all the same"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "module"),
    [
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93.", "os"),  # through the memo
        (b"\x80\x04\x8c\x02os\x8c\x06system20\x93.", "os"),  # duplicated and dropped
        (b"\x80\x04(08\x8c\x02os\x8c\x06system\x93."[:3] + b"0\x8c\x02os\x8c\x06system\x93.", "os"),  # a mark dropped
        (b"(S'id'\nios\nsystem\n.", "os"),  # INST
        (b"\x80\x04N\x8c\x06system\x93.", "?"),  # a module that is no text
        (b"\x80\x02\x82\x05.", "?"),  # the registry of extensions
    ],
)
def test_names_are_found_however_they_are_written(code: bytes, module: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(code)
    seen = inspect_files(str(tmp_path / "x.pkl"))
    assert [item.module for item in seen.pickles] == [module]
    assert "unsafe-global" in rules(seen)


def test_large_pickles_of_the_first_protocol_are_told_by_their_beginning(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([Attack("true"), *range(200_000)], protocol=0))
    assert rules(inspect_files(str(tmp_path / "x.pkl"))) == {"unsafe-global"}


def test_pickles_that_break_are_read_up_to_there(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R\xff\xff\xff")
    assert rules(inspect_files(str(tmp_path / "x.pt"))) == {"unsafe-global", "damaged-pickle"}


def test_packed_and_doubled_entries_are_hidden_content(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "m.pt")
    attack = pickle.dumps(Attack("true"), protocol=2)
    with zipfile.ZipFile(tmp_path / "m.pt", "a") as archive:
        archive.writestr("m/hidden.pkl", attack, zipfile.ZIP_DEFLATED)
        archive.writestr("m/VERSION", "3")
    seen = inspect_files(str(tmp_path / "m.pt"))
    assert rules(seen) == {"hidden-content", "unsafe-global"}
    (unsafe,) = [item for item in seen.pickles if item.verdict == "unsafe"]
    assert unsafe.entry == "m/hidden.pkl"
    assert unsafe.offset is None
    assert unsafe.in_pickle == attack.index(b"c")


def test_other_files_of_a_folder_are_scanned(model_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    torch.save({"x": Attack("true")}, folder / "pytorch_model.bin")
    (folder / "modeling.py").write_text("raise SystemExit")
    seen = inspect_files(str(folder))
    assert seen.weights is not None
    assert seen.weights.name.endswith("open_clip_model.safetensors")
    assert {"unsafe-global", "code-beside"} == rules(seen)


def test_foreign_objects_are_a_warning(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "path": Path("x")}, tmp_path / "m.pt")
    seen = inspect_files(str(tmp_path / "m.pt"))
    assert rules(seen) == {"foreign-global"}
    assert seen.tensors is not None
    assert seen.tensors.count == 1


# Files that are none


@pytest.mark.parametrize(
    ("content", "name", "status", "said"),
    [
        (b"", "m.pt", 1, "the file is empty"),
        (b"PK\x03\x04" + b"x" * 50, "m.pt", 1, "no directory"),
        (b"x" * 100, "m.safetensors", 1, "cannot be read"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b"x" * 50, "m.bin", 1, "cannot be read"),
        (b"hello, world", "m.pt", 3, "format: unknown"),
        (b"GGUF" + bytes(50), "m.gguf", 3, "format: GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "m.pt", 3, "Git LFS pointer"),
        (None, "m.pt", 2, "no file or folder m.pt"),
    ],
)
def test_files_that_hold_no_model(
    content: bytes | None, name: str, status: int, said: str, tmp_path: Path, cli: Cli
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = cli("inspect", name)
    assert ran.status == status
    assert said in ran.out + ran.err
    assert ran.err.count("error:") == (status > 1)


def test_wrong_specs_and_folders(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(UnsupportedError, match="no weights to inspect"):
        ca.inspect(tmp_path / "notes")
    with pytest.raises(UsageError, match="cannot read the model"):
        ca.inspect("nonsense")
    with pytest.raises(ModelError, match="no regular file"):
        ca.inspect("/dev/null")
    (tmp_path / "notes" / "open_clip_config.json").write_text("{}")
    assert rules(ca.inspect(tmp_path / "notes")) == {"not-loadable"}


def test_a_stated_architecture_that_does_not_fit_is_a_finding(tmp_path: Path) -> None:
    torch.save(weights("RN50"), tmp_path / "m.pt")
    seen = ca.inspect(f"open_clip:ViT-B-32@{tmp_path / 'm.pt'}")
    assert rules(seen) == {"not-loadable"}
    assert seen.architecture is not None
    assert seen.architecture.stated
    assert "RN50" in seen.architecture.ties


# The zero-shot check tells activations apart


def test_the_zero_shot_check_decides_between_ties(monkeypatch: pytest.MonkeyPatch, tiny: OpenCLIPEncoder) -> None:
    from clip_antidote.jobs import zero_shot

    told: dict[str, Any] = {"name": "RN50", "ties": ("RN50-quickgelu",), "spec": "open_clip:RN50@x.pt"}
    architecture = Architecture(certainty="certain", **told)
    unknown = ActivationFacts(name=None, evidence="none")
    base = inspect_files("tiny").model_copy(update={"architecture": architecture, "activation": unknown})
    for accuracies, name, spec in [
        ((False, 0.4, 0.8), "QuickGELU", "open_clip:RN50-quickgelu@x.pt"),
        ((False, 0.8, 0.4), "GELU", "open_clip:RN50@x.pt"),
        ((False, 0.8, 0.75), None, "open_clip:RN50@x.pt"),
    ]:
        monkeypatch.setattr(zero_shot, "activation_accuracies", lambda *_, found=accuracies: found)
        seen = zero_shot.check_zero_shot(tiny, base)
        assert seen.activation is not None
        assert seen.activation.name == name
        assert seen.architecture is not None
        assert seen.architecture.spec == spec
        assert not seen.found
    seen = zero_shot.check_zero_shot(tiny, inspect_files("tiny"))
    assert seen.findings == (), "a stated activation is doubted only where the other is better by far"


def test_a_wrong_activation_is_a_finding(monkeypatch: pytest.MonkeyPatch, tiny: OpenCLIPEncoder) -> None:
    from clip_antidote.jobs import zero_shot

    monkeypatch.setattr(zero_shot, "activation_accuracies", lambda *_: (False, 0.2, 0.8))
    assert rules(zero_shot.check_zero_shot(tiny, inspect_files("tiny"))) == {"activation"}


# purify begins with it


def test_purify_begins_with_the_quick_form(photos: Path, model_folder: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "fast.yaml").write_text(
        "inversion: {survey: {steps: 1}, final_steps: 1, form_steps: 1}\n"
        "tuning: {steps: 1}\nprecision: fp32\npool: 4\n"
    )
    file = tmp_path / "small" / "open_clip_model.safetensors"
    state = load_file(file)
    state["transformer.resblocks.0.mlp.c_fc.weight"][:40] = 0
    save_file(state, file)
    ran = cli("purify", model_folder, "--data", photos, "--shots", 2, "--config", "fast.yaml", "--json")
    assert ran.status == 0
    assert f"inspected {model_folder}: safetensors" in ran.err
    assert "1 finding:" in ran.err
    assert any("[" not in note and note.startswith("dead-channels:") for note in ran.json()["warnings"])


def test_errors_stop_a_purification(model_folder: str, photos: Path, tmp_path: Path) -> None:
    seen = finding("unsafe-global", "the pickle names os.system", "m.pt")
    base = inspect_files(model_folder, quick=True)
    assert job.refuse_errors(base) == []
    with pytest.raises(ModelError, match=r"names os\.system; do not load"):
        job.refuse_errors(base.model_copy(update={"findings": (seen,)}))
    file = tmp_path / "small" / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="damaged or truncated"):
        run_purify(model_folder, str(photos), tmp_path / "out", CBPTConfig(), shots=2)


def test_the_quick_form_leaves_out_what_costs(model_folder: str) -> None:
    seen = inspect_files(model_folder, quick=True)
    assert seen.weights is not None
    assert seen.weights.sha256 is None
    assert seen.architecture is None
    assert seen.tensors is not None


def test_json_is_the_record(model_folder: str, tmp_path: Path, cli: Cli) -> None:
    assert cli("inspect", model_folder, "--no-zero-shot", "--json", "seen.json").status == 0
    values = json.loads((tmp_path / "seen.json").read_text())
    assert Inspection.model_validate(values).model == model_folder
    assert cli("inspect", model_folder, "--no-zero-shot", "--json", "none/../small").status == 2

"""The model that an artefact names: found on this machine, given, or fetched where allowed, never unasked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from open_clip import pretrained

from clip_antidote.errors import ModelError, UsageError
from clip_antidote.models import downloads, load_model
from clip_antidote.purification.classifier import PurifiedCLIP
from conftest import Cli

REMOTE = ["hf-hub:org/repo", "open_clip:RN50@openai", "open_clip:ViT-B/32@laion2b_s34b_b79k"]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was asked of the network; it never answers."""
    asked: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        asked.append(args or kwargs)
        raise OSError("tests have no network")

    monkeypatch.setattr(pretrained, "download_pretrained", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    return asked


@pytest.fixture
def artefact(model_folder: str, tmp_path: Path) -> Path:
    """A classifier of two classes over a small model."""
    model = load_model(model_folder)
    head = PurifiedCLIP(model, torch.eye(16)[:, :2].contiguous(), ("cat", "dog"), context=torch.zeros(2, 4, 16))
    head.save_pretrained(tmp_path / "purified")
    return tmp_path / "purified"


def name_model(artefact: Path, spec: str, sha256: str | None = None) -> None:
    file = artefact / "config.json"
    values = json.loads(file.read_text())
    values["base_model"]["spec"] = spec
    if sha256 is not None:
        values["base_model"]["sha256"] = sha256
    file.write_text(json.dumps(values))


@pytest.mark.parametrize("spec", REMOTE)
def test_a_model_elsewhere_is_not_fetched_unasked(
    spec: str, artefact: Path, fetched: list[object], photos: Path, cli: Cli, model_folder: str
) -> None:
    name_model(artefact, spec)
    assert downloads(spec)
    with pytest.raises(UsageError, match=r"give --model SPEC .* or --allow-download") as caught:
        PurifiedCLIP.from_pretrained(artefact)
    assert "\n" not in str(caught.value)
    for command in (["evaluate", artefact, "--data", photos], ["export", artefact, "--out", "p.onnx"]):
        ran = cli(*command)
        assert ran.status == 4
        assert "give --model SPEC" in ran.err
    assert not Path("p.onnx").exists()
    assert cli("evaluate", artefact, "--data", photos, "--model", model_folder).status == 0
    assert PurifiedCLIP.from_pretrained(artefact, model=model_folder).model.spec == model_folder
    assert not fetched


@pytest.mark.parametrize("spec", ["hf-hub:org/repo", "open_clip:RN50@openai"])
def test_it_is_fetched_where_that_is_allowed(
    spec: str, artefact: Path, fetched: list[object], photos: Path, cli: Cli
) -> None:
    name_model(artefact, spec)
    with pytest.raises(ModelError, match="cannot download"):
        PurifiedCLIP.from_pretrained(artefact, allow_download=True)
    assert len(fetched) == 1
    assert cli("evaluate", artefact, "--data", photos, "--allow-download").status == 2
    assert cli("export", artefact, "--allow-download").status == 2
    assert len(fetched) == 3


def test_local_models_are_found_and_checked(
    artefact: Path, model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PurifiedCLIP.from_pretrained(artefact).model.spec == model_folder
    monkeypatch.chdir(tmp_path)
    name_model(artefact, "local-dir:small")
    assert PurifiedCLIP.from_pretrained(artefact).model.spec == "local-dir:small"
    name_model(artefact, "tiny")
    with pytest.raises(ModelError, match="made for another checkpoint"):
        PurifiedCLIP.from_pretrained(artefact)
    with pytest.raises(ModelError, match="made for another checkpoint"):
        PurifiedCLIP.from_pretrained(artefact, model="tiny")


def test_a_model_beside_the_artefact_is_found(artefact: Path, model_folder: str, tmp_path: Path) -> None:
    shutil.copytree(artefact, tmp_path / "elsewhere" / "purified")
    Path(model_folder.partition(":")[2]).rename(tmp_path / "elsewhere" / "small")
    loaded = PurifiedCLIP.from_pretrained(tmp_path / "elsewhere" / "purified")
    assert loaded.model.spec == f"local-dir:{tmp_path / 'elsewhere' / 'small'}"


@pytest.mark.parametrize("form", ["open_clip:RN50@{}/secret", "local-dir:{}", "hf:{}", "{}"])
def test_no_other_file_of_this_machine_is_looked_into(
    form: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("secret", "model.safetensors"):
        (folder / name).write_bytes(b"\x80 a secret of the user")
    name_model(artefact, form.format(folder))

    def read(*arguments: object) -> None:
        raise AssertionError("it was read as a model")

    monkeypatch.setattr("clip_antidote.models.loading.read_checkpoint", read)
    monkeypatch.setattr("clip_antidote.models.loading.load_transformers", read)
    with pytest.raises(ModelError, match="made for another checkpoint") as caught:
        PurifiedCLIP.from_pretrained(artefact)
    assert "secret of" not in str(caught.value)


def test_a_model_without_a_checksum_is_not_followed(artefact: Path, model_folder: str) -> None:
    name_model(artefact, model_folder, "")
    with pytest.raises(UsageError, match="without its checksum; give --model"):
        PurifiedCLIP.from_pretrained(artefact)
    assert PurifiedCLIP.from_pretrained(artefact, model=model_folder).classes == ("cat", "dog")


def test_pipes_and_devices_are_not_waited_for(artefact: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        name_model(artefact, f"open_clip:RN50@{path}")
        with pytest.raises(ModelError, match="no regular file"):
            PurifiedCLIP.from_pretrained(artefact)
        with pytest.raises(ModelError, match="no regular file; name a file"):
            load_model(f"open_clip:RN50@{path}")


@pytest.mark.parametrize("form", ["local-dir:{}", "hf:{}", "open_clip:RN50@{}", "{}"])
@pytest.mark.parametrize("path", [r"\\evil.example\share", "//evil.example/share", r"\/evil.example/share"])
def test_shares_of_other_machines_are_not_tried(form: str, path: str, artefact: Path) -> None:
    name_model(artefact, form.format(path))
    with pytest.raises(UsageError, match="not on this machine"):
        PurifiedCLIP.from_pretrained(artefact)


@pytest.mark.parametrize(
    "spec", ["tiny", "local-dir:some/folder", "open_clip:RN50@suspect.pt", "open_clip:RN50@./openai"]
)
def test_what_is_local(spec: str) -> None:
    assert not downloads(spec)


def test_the_options_are_for_artefacts(model_folder: str, photos: Path, cli: Cli) -> None:
    for option in (["--model", "tiny"], ["--allow-download"]):
        ran = cli("evaluate", model_folder, "--data", photos, *option)
        assert ran.status == 4
        assert "are for purified or defended classifiers" in ran.err

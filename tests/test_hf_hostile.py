"""Folders of transformers models that are broken, foreign or hostile: a sentence, and nothing run or fetched."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_antidote.errors import ClipAntidoteError, ModelError, UnsupportedError
from clip_antidote.jobs.inspect import run_inspect
from clip_antidote.jobs.purify import run_purify
from clip_antidote.jobs.scan import run_scan
from clip_antidote.models import HFEncoder, OpenCLIPEncoder, downloads, load_model
from clip_antidote.models.build import save_open_clip
from clip_antidote.models.hub import hub_folder
from clip_antidote.purification.config import CBPTConfig

transformers = pytest.importorskip("transformers")

from hf_models import write_clip, write_preprocessor, write_siglip  # noqa: E402


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "model"
    write_clip(folder)
    return folder


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    """A model folder to spoil."""
    return Path(shutil.copytree(clean, tmp_path / "model"))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network: whoever connects fails the test."""
    tried: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        tried.append(args)
        raise OSError("tests have no network")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, refuse)
    yield
    assert not tried


def change(file: Path, **values: Any) -> None:
    """Sets entries of a JSON file; a name with two underscores reaches into a part."""
    content = json.loads(file.read_text())
    for name, value in values.items():
        part, _, inner = name.partition("__") if "config__" in name else ("", "", name)
        (content[part] if part else content)[inner] = value
    file.write_text(json.dumps(content))


def refused(folder: Path, kind: type[ClipAntidoteError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        load_model(f"hf:{folder}").tokenize(["a cat"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"model_type": "siglip2"}, UnsupportedError, "NaFlex kind.*no fixed size"),
        ({"model_type": "clipseg"}, UnsupportedError, "of type 'clipseg'"),
        ({"model_type": ["clip"]}, UnsupportedError, "CLIPModel and SiglipModel"),
        ({"text_config": 3}, ModelError, "text_config that is no mapping"),
        ({"text_config__hidden_size": 10**9}, ModelError, "from 1 to 16384"),
        (
            {"text_config__hidden_size": 33},
            ModelError,
            "not a multiple of the number of attention heads|heads do not divide",
        ),
        ({"text_config__num_hidden_layers": "2"}, ModelError, "must be a whole number"),
        ({"text_config__vocab_size": True}, ModelError, "must be a whole number"),
        ({"text_config__vocab_size": 4_000_000}, ModelError, "describes about|does not fit|embeds|shape"),
        ({"text_config__hidden_act": "__import__"}, ModelError, "must be one of quick_gelu"),
        ({"text_config__layer_norm_eps": "x"}, ModelError, "between 0 and 1"),
        ({"text_config__eos_token_id": [1, 2]}, ModelError, "number of a token"),
        ({"text_config__max_position_embeddings": 4}, ModelError, "holds no class name"),
        ({"vision_config__image_size": 8}, ModelError, "of at least a patch"),
        ({"vision_config__num_channels": 1}, ModelError, "color images"),
        ({"vision_config__num_hidden_layers": 500, "vision_config__hidden_size": 16_000}, ModelError, "parameters"),
        ({"vision_config__num_hidden_layers": 3}, ModelError, "does not fit"),
    ],
)
def test_configurations_that_make_no_sense(
    folder: Path, values: dict[str, Any], kind: type[ClipAntidoteError], message: str
) -> None:
    change(folder / "config.json", **values)
    refused(folder, kind, message)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\x00"])
def test_configurations_that_cannot_be_read(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, ModelError, "as JSON|no JSON object")


def test_code_that_a_folder_names_is_neither_imported_nor_fetched(folder: Path) -> None:
    victim = folder / "executed"
    code = f"open({str(victim)!r}, 'w')\n"
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py"):
        (folder / name).write_text(code + "class Evil: pass\n")
    own = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "configuration_evil.Evil"}
    change(
        folder / "config.json",
        auto_map=own,
        attn_implementation="evil/kernel",
        _attn_implementation="evil/kernel",
        quantization_config={"quant_method": "gptq"},
        text_config___attn_implementation="evil/kernel",
    )
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
        name_or_path="evil/repo",
        fast_tokenizer_files=["../../evil.json"],
        gguf_file="evil.gguf",
        chat_template="{{ ''.__class__ }}",
        extra_special_tokens={"a": 3},
    )
    model = load_model(f"hf:{folder}")
    with torch.no_grad():
        assert model.encode_texts(["a cat"]).shape == (1, 16)

    assert not victim.exists()
    assert model.tokenize(["a cat"])[0, :4].tolist() == [49406, 320, 2368, 49407]


def test_tokenizers_that_are_missing_foreign_or_broken(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="Evil")
    refused(folder, UnsupportedError, "asks for the tokenizer 'Evil'")
    change(folder / "tokenizer_config.json", tokenizer_class="CLIPTokenizer")
    vocabulary = (folder / "vocab.json").read_text()
    (folder / "vocab.json").write_text("[1, 2")
    refused(folder, ModelError, "cannot load the tokenizer")
    (folder / "vocab.json").write_text(vocabulary.replace('"cat</w>": 2368', '"cat</w>": 99999'))
    refused(folder, ModelError, "more tokens than the model|cannot load")
    (folder / "vocab.json").unlink()
    refused(folder, ModelError, "has no tokenizer")


def test_a_tokenizer_that_ends_texts_otherwise_is_noticed(folder: Path) -> None:
    change(folder / "config.json", text_config__eos_token_id=7)
    refused(folder, ModelError, "does not end a text with token 7")


def test_weights_that_are_missing_split_or_broken(folder: Path) -> None:
    weights = folder / "model.safetensors"
    state = load_file(weights)
    name = "text_model.final_layer_norm.bias"
    for value in (float("nan"), float("inf")):
        save_file({**state, name: torch.full_like(state[name], value)}, weights)
        refused(folder, ModelError, f"{name} that are not finite")
    save_file({key: value for key, value in state.items() if key != name}, weights)
    refused(folder, ModelError, f"'{name}' is missing")
    save_file({**state, name: torch.ones(3)}, weights)
    refused(folder, ModelError, f"{name} of shape 3")
    weights.unlink()
    refused(folder, ModelError, "has no weights")
    (folder / "model.safetensors.index.json").write_text("{}")
    refused(folder, UnsupportedError, "split over several files")


def test_older_weights_come_through_the_checked_reader(clean: Path, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    position_ids = {"text_model.embeddings.position_ids": torch.arange(24).view(1, -1)}
    torch.save({**state, **position_ids}, folder / "pytorch_model.bin")
    with torch.no_grad():
        features = load_model(f"hf:{folder}").encode_texts(["a cat"])
        assert torch.equal(features, load_model(f"hf:{clean}").encode_texts(["a cat"]))

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (folder / "executed",))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    refused(folder, ModelError, "can run code")
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (
            {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224},
            ModelError,
            "the model takes 32",
        ),
        ({"size": {"longest_edge": 32}}, UnsupportedError, "resizes images to"),
        ({"size": {"height": 32, "width": 16}}, UnsupportedError, "resizes images to"),
        ({"size": "large"}, UnsupportedError, "resizes images to|which is not supported"),
        ({"do_normalize": False}, UnsupportedError, "do_normalize to False"),
        ({"rescale_factor": 1 / 127.5}, UnsupportedError, "only 1/255"),
        ({"image_mean": [0, 0]}, ModelError, "must be three numbers"),
        ({"image_std": [0, 0, 0]}, ModelError, "deviation of 0"),
    ],
)
def test_preprocessing_that_is_not_done_here(
    folder: Path, values: dict[str, Any], kind: type[ClipAntidoteError], message: str
) -> None:
    write_preprocessor(folder, **values)
    refused(folder, kind, message)


def test_preprocessing_that_is_assumed_or_coarser_is_said(folder: Path) -> None:
    write_preprocessor(folder, size={"shortest_edge": 40}, do_center_crop=True, crop_size=32, resample=2)
    with pytest.warns(UserWarning, match="bilinear resizing") as said:
        load_model(f"hf:{folder}")
    assert any("resizes images to 40 pixels and crops 32" in str(one.message) for one in said)
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="does not say how its images are normalized"):
        load_model(f"hf:{folder}")
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": {**values, "resample": 3}}))
    with pytest.warns(UserWarning, match="resizes images to 40"):  # where transformers 5 writes it
        assert load_model(f"hf:{folder}").image_mean.flatten().tolist() == pytest.approx(values["image_mean"])


def test_siglip_images_are_squashed_where_nothing_is_said(tmp_path: Path) -> None:
    write_siglip(tmp_path, second=True)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="SigLIP's way is assumed"):
        model = load_model(f"hf:{tmp_path}")
    assert (model.resize_mode, model.image_mean.flatten().tolist()) == ("squash", [0.5, 0.5, 0.5])


def test_folders_that_are_not_there(tmp_path: Path, small_model: OpenCLIPEncoder) -> None:
    assert not downloads("hf:org/repo")
    with pytest.raises(ModelError, match="does not exist; check the path, or write hf-hub:org/repo"):
        load_model("hf:org/repo")
    save_open_clip(small_model, None, tmp_path)
    with pytest.raises(ModelError, match="in the format of open_clip; write local-dir:"):
        load_model(f"hf:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(f"hf:{tmp_path / 'empty'}")


def test_missing_packages_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    refused(folder, UnsupportedError, r"pip install 'clip-antidote\[hf\]'")


def test_sentencepiece_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_siglip(tmp_path, second=True)
    (tmp_path / "tokenizer.json").rename(tmp_path / "spiece.model")
    change(tmp_path / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(tmp_path, UnsupportedError, "needs sentencepiece and protobuf")


Hub = Callable[[Path], list[str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Lets a folder stand in for a repository; gives the names that were asked for."""
    from huggingface_hub.errors import EntryNotFoundError

    def serve(folder: Path) -> list[str]:
        asked: list[str] = []

        def download(*, repo_id: str, filename: str) -> str:
            asked.append(filename)
            if not (folder / filename).is_file():
                raise EntryNotFoundError.__new__(EntryNotFoundError)
            return str(folder / filename)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        return asked

    return serve


def test_a_repository_without_open_clip_is_read_as_transformers(folder: Path, hub: Hub) -> None:
    asked = hub(folder)
    model = load_model("hf-hub:openai/clip-vit-base-patch32")

    assert isinstance(model, HFEncoder)
    assert model.spec == "hf-hub:openai/clip-vit-base-patch32"
    assert asked[:3] == ["open_clip_config.json", "config.json", "model.safetensors"]
    assert {"preprocessor_config.json", "tokenizer_config.json", "vocab.json", "merges.txt"} <= set(asked)
    assert "pytorch_model.bin" not in asked
    assert not any(name.endswith(".py") for name in asked)


def test_open_clip_comes_first_where_a_repository_has_both(
    folder: Path, hub: Hub, small_model: OpenCLIPEncoder
) -> None:
    save_open_clip(small_model, None, folder)
    asked = hub(folder)

    assert isinstance(load_model("hf-hub:org/both"), OpenCLIPEncoder)
    assert asked == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert isinstance(load_model(f"local-dir:{folder}"), OpenCLIPEncoder)
    assert isinstance(load_model(f"hf:{folder}"), HFEncoder)


class _EnoughError(Exception):
    pass


def test_a_repository_is_asked_for_once(
    hub: Hub, small_model: OpenCLIPEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    save_open_clip(small_model, None, repository)
    asked = hub(repository)

    def stop(*arguments: object, **settings: object) -> None:
        raise _EnoughError

    monkeypatch.setattr("clip_antidote.jobs.purify.purify", stop)
    monkeypatch.setattr("clip_antidote.jobs.scan.scan_model", stop)
    jobs: list[Callable[[], object]] = [
        lambda: run_purify("hf-hub:org/one", str(photos), tmp_path / "out", CBPTConfig(), shots=1),
        lambda: run_scan("hf-hub:org/one", str(photos), shots=1),
        lambda: run_inspect("hf-hub:org/one"),
    ]
    for job in jobs:
        with contextlib.suppress(_EnoughError):
            job()
        assert asked == ["open_clip_config.json", "open_clip_model.safetensors"]
        asked.clear()
    load_model("hf-hub:org/one")
    load_model("hf-hub:org/one")
    assert len(asked) == 4, "outside of a job it may have changed"


def test_repositories_that_hold_no_model(folder: Path, hub: Hub) -> None:
    hub(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"org/repo has no model\.safetensors"):
        hub_folder("org/repo")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"neither open_clip_config\.json nor config\.json"):
        hub_folder("org/repo")

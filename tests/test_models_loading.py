"""Models loaded from files, folders, tags and hubs."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import pretrained
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file

from clip_antidote import models
from clip_antidote.errors import ClipAntidoteError, ModelError, UnsupportedError, UsageError
from clip_antidote.models import OpenCLIPEncoder
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.loading import TINY_FOLDER
from clip_antidote.models.tokenizers import tokenizer_factory

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def load_model(spec: str, *, device: str = "cpu") -> OpenCLIPEncoder:
    """Loads what must be a model of open_clip."""
    loaded = models.load_model(spec, device=device)
    assert isinstance(loaded, OpenCLIPEncoder)
    return loaded


def _one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 600
    return text


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("tests have no network")

    monkeypatch.setattr(pretrained, "download_pretrained", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


@pytest.fixture(autouse=True)
def _small_arch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ViT-B-32 small, with and without QuickGELU, so that files of it are light."""
    real = open_clip.get_model_config

    def config(name: str) -> dict[str, Any] | None:
        if name in ("ViT-B-32", "ViT-B-32-quickgelu"):
            return {**copy.deepcopy(SMALL), **({"quick_gelu": True} if name.endswith("quickgelu") else {})}
        return real(name)

    monkeypatch.setattr(open_clip, "get_model_config", config)


@pytest.fixture(scope="module")
def model() -> OpenCLIPEncoder:
    torch.manual_seed(0)
    return build_open_clip(SMALL)


@pytest.fixture
def state(model: OpenCLIPEncoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def _load(path: Path, arch: str = "ViT-B-32") -> OpenCLIPEncoder:
    return load_model(f"open_clip:{arch}@{path}")


def _same(loaded: OpenCLIPEncoder, state: dict[str, torch.Tensor]) -> bool:
    own = loaded.model.state_dict()
    return all(torch.equal(own[name], value) for name, value in state.items())


def test_loads_a_file_with_its_records(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = _load(path)

    assert _same(loaded, state)
    assert loaded.spec == f"open_clip:ViT-B-32@{path}"
    assert len(loaded.sha256) == 64
    assert not loaded.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert loaded.preprocess_cfg["mean"] == pytest.approx(list(open_clip.OPENAI_DATASET_MEAN))


def test_half_precision_comes_in_as_single(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "half.safetensors")
    loaded = _load(tmp_path / "half.safetensors")

    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        loaded.model.token_embedding.weight, state["token_embedding.weight"], atol=1e-3, rtol=1e-2
    )


def test_older_layouts_find_their_place(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    old = {name: value for name, value in state.items() if name != "logit_scale"}
    old |= {"logit_scale": state["logit_scale"].reshape(1), "attn_mask": torch.zeros(16, 16)}
    old |= {"text.transformer.embeddings.position_ids": torch.arange(3)}
    torch.save(old, tmp_path / "old.pt")
    assert _same(_load(tmp_path / "old.pt"), state)

    text = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
    custom = {f"text.{k}" if k.startswith(text) else k: v for k, v in state.items()}
    torch.save(custom, tmp_path / "custom.pt")
    assert _same(_load(tmp_path / "custom.pt"), state)


def test_plain_text_weights_fit_a_custom_text_model(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    config = {"model_cfg": {**SMALL, "custom_text": True}, "preprocess_cfg": {"mean": 0.5, "std": 0.5}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "open_clip_model.safetensors")
    loaded = load_model(f"local-dir:{tmp_path}")

    assert torch.equal(loaded.model.text.token_embedding.weight, state["token_embedding.weight"])
    assert loaded.preprocess_cfg["mean"] == [0.5, 0.5, 0.5]


def test_sigmoid_training_brings_a_bias(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({**state, "logit_bias": torch.tensor([-7.0])}, tmp_path / "sigmoid.pt")
    bias = _load(tmp_path / "sigmoid.pt").logit_bias

    assert bias is not None
    assert bias.item() == -7.0


def test_openai_layout_means_quick_gelu(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    openai = {**state, "input_resolution": torch.tensor(32), "context_length": torch.tensor(16)}
    torch.save(openai, tmp_path / "openai.pt")
    with pytest.warns(UserWarning, match="configured with GELU.*OpenAI.*QuickGELU, which is used") as caught:
        loaded = _load(tmp_path / "openai.pt")
    assert len(caught) == 1
    assert isinstance(loaded.model.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert loaded.model_cfg["quick_gelu"] is True

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _load(tmp_path / "openai.pt", "ViT-B-32-quickgelu")


@pytest.mark.parametrize(
    ("arch", "tag", "quick", "warned"),
    [
        ("ViT-B-32", "openai", True, True),
        ("ViT-B-32-quickgelu", "openai", True, False),
        ("ViT-B-32", "laion2b_s34b_b79k", False, False),
    ],
)
def test_tags_say_their_activation(
    tmp_path: Path,
    state: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    tag: str,
    quick: bool,
    warned: bool,
) -> None:
    path = tmp_path / "downloaded.safetensors"
    save_file(state, path)
    monkeypatch.setattr(pretrained, "download_pretrained", lambda cfg: str(path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_model(f"open_clip:{arch}@{tag}")

    assert loaded.model_cfg["quick_gelu"] is quick
    assert bool(caught) is warned


def test_downloads_that_fail_are_one_sentence() -> None:
    with pytest.raises(ModelError, match="cannot download the weights 'openai' of ViT-B-32") as caught:
        load_model("open_clip:ViT-B-32@openai")
    _one_sentence(caught.value)
    with pytest.raises(ModelError, match=r"cannot download open_clip_config\.json of org/repo") as caught:
        load_model("hf-hub:org/repo")
    _one_sentence(caught.value)


def test_hub_models_take_safetensors_first(
    tmp_path: Path, model: OpenCLIPEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_open_clip(model, None, tmp_path)
    asked = []

    def download(*, repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    loaded = load_model("hf-hub:org/repo")

    assert asked == [("org/repo", "open_clip_config.json"), ("org/repo", "open_clip_model.safetensors")]
    assert loaded.spec == "hf-hub:org/repo"


def test_unknown_tag_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a file nor a pretrained tag of ViT-B-32; its tags are: openai"):
        load_model("open_clip:ViT-B-32@opnai")
    with pytest.raises(ModelError, match=r"gone\.pt does not exist"):
        _load(tmp_path / "gone.pt")
    with pytest.raises(ModelError, match="is a folder"):
        _load(tmp_path)


def test_wrong_architecture_is_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    fewer = {name: value for name, value in state.items() if name != "visual.proj"}
    save_file({**fewer, "head.weight": torch.ones(1), "head.bias": torch.ones(1)}, path)
    with pytest.raises(
        ModelError,
        match=r"does not fit ViT-B-32: 1 entries are missing and 2 left over.*'visual\.proj' is missing",
    ) as caught:
        _load(path)
    _one_sentence(caught.value)


def test_shape_mismatch_is_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_file({**state, "visual.proj": torch.ones(64, 8), "text_projection": torch.ones(32, 8)}, path)
    with pytest.raises(
        ModelError, match=r"text_projection of shape 32×8, ViT-B-32 needs 32×16 \(and 1 more such"
    ) as caught:
        _load(path)
    _one_sentence(caught.value)


def test_bad_values_are_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["visual.proj"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ModelError, match=r"visual\.proj that are not finite"):
        _load(tmp_path / "nan.pt")
    torch.save({**state, "visual.proj": torch.ones(64, 16, dtype=torch.int8)}, tmp_path / "int.pt")
    with pytest.raises(ModelError, match=r"stores visual\.proj as int8"):
        _load(tmp_path / "int.pt")


def test_unknown_device_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="device 'abacus' is not available"):
        load_model("tiny", device="abacus")


@pytest.mark.parametrize("arch", ["coca_ViT-B-32", "roberta-ViT-B-32"])
def test_text_towers_without_prompts_are_refused_before_any_download(arch: str) -> None:
    with pytest.raises(UnsupportedError, match="class prompts"):
        load_model(f"open_clip:{arch}@laion2b_s13b_b90k")


def test_saved_folder_gives_the_same_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash", "interpolation": "bicubic"}
    saved = build_open_clip(SMALL, preprocess, quick_gelu=True)
    save_open_clip(saved, None, tmp_path)
    loaded = load_model(str(tmp_path))
    images = torch.rand(2, 3, 32, 32)

    assert (loaded.resize_mode, loaded.preprocess_cfg) == ("squash", preprocess)
    with torch.no_grad():
        assert torch.equal(loaded.encode_texts(["a cat"]), saved.encode_texts(["a cat"]))
        assert torch.equal(loaded.encode_images(images), saved.encode_images(images))


def _folder(path: Path, config: object, state: dict[str, torch.Tensor] | None = None) -> str:
    path.mkdir(exist_ok=True)
    (path / "open_clip_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if state is not None:
        save_file(state, path / "open_clip_model.safetensors")
    return f"local-dir:{path}"


def test_broken_folders_say_why(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    remote = {**SMALL, "vision_cfg": {"image_size": 32, "timm_model_name": "hf-hub:evil/tower"}}
    options = {**SMALL, "text_cfg": {**SMALL["text_cfg"], "tokenizer_kwargs": {"trust_remote_code": True}}}
    good = {"mean": 0.5, "std": 0.5}
    cases: list[tuple[object, type[ClipAntidoteError], str]] = [
        ("{", ModelError, "as JSON"),
        ([], ModelError, "has no model_cfg"),
        ({"model_cfg": {}}, ModelError, "no vision_cfg or no text_cfg"),
        ({"model_cfg": {**SMALL, "nonsense": 1}, "preprocess_cfg": good}, ModelError, "does not describe"),
        ({"model_cfg": SMALL, "preprocess_cfg": {"mean": "x", "std": 1}}, ModelError, "must be three numbers"),
        ({"model_cfg": SMALL, "preprocess_cfg": {"mean": 0, "std": 0}}, ModelError, "deviation of 0"),
        ({"model_cfg": SMALL, "preprocess_cfg": {**good, "resize_mode": "longest"}}, UnsupportedError, "longest"),
        ({"model_cfg": remote}, UnsupportedError, "not one of timm's own"),
        ({"model_cfg": options, "preprocess_cfg": good}, UnsupportedError, "'trust_remote_code'"),
    ]
    for number, (config, kind, message) in enumerate(cases):
        with pytest.raises(kind, match=message) as caught:
            load_model(_folder(tmp_path / str(number), config, state))
        _one_sentence(caught.value)
    with pytest.raises(ModelError, match="has no weights"):
        load_model(_folder(tmp_path / "bare", {"model_cfg": SMALL}))
    with pytest.raises(ModelError, match="does not exist"):
        load_model(f"local-dir:{tmp_path / 'none'}")


def test_assumed_preprocessing_is_said(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    spec = _folder(tmp_path, {"model_cfg": SMALL}, state)
    with pytest.warns(UserWarning, match="does not say how its images are normalized"):
        load_model(spec)
    spec = _folder(
        tmp_path, {"model_cfg": SMALL, "preprocess_cfg": {"mean": 0, "std": 1, "interpolation": "bilinear"}}
    )
    with pytest.warns(UserWarning, match="bilinear resizing"):
        load_model(spec)


def test_files_get_the_preprocessing_of_their_architecture() -> None:
    from clip_antidote.models.preprocess import arch_preprocess

    assert arch_preprocess("ViT-B-16-SigLIP")["resize_mode"] == "squash"
    assert arch_preprocess("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert arch_preprocess("ViT-S-16")["mean"] == open_clip.OPENAI_DATASET_MEAN
    with pytest.warns(UserWarning, match="published ViT-L-14 weights differ"):
        assert arch_preprocess("ViT-L-14")["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_tokenizers_of_transformers_are_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    make = tokenizer_factory(open_clip.get_model_config("ViT-B-16-SigLIP"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'clip-antidote\[hf\]'"):
        make()


@pytest.mark.skipif(
    not (TINY_FOLDER / "open_clip_model.safetensors").is_file(),
    reason="the weights of the tiny CLIP are not there",
)
def test_tiny_loads_and_reads_text() -> None:
    tiny = load_model("tiny")

    assert tiny.spec == "tiny"
    assert len(load_file(TINY_FOLDER / "open_clip_model.safetensors")) == len(tiny.model.state_dict())
    with torch.no_grad():
        features = tiny.encode_texts(["a photo of a cat", "a photo of a car"])
        pixels = tiny.encode_images(torch.rand(1, 3, tiny.image_size, tiny.image_size))
    assert features.shape[1] == pixels.shape[1]
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


def test_a_copy_has_weights_of_its_own_and_the_same_tokenizer(small_model: OpenCLIPEncoder) -> None:
    ids = small_model.tokenize(["a hat"])
    copied = copy.deepcopy(small_model)
    assert type(copied) is type(small_model)
    assert copied._tokenizer is small_model._tokenizer, "its vocabulary is large, and never changed"
    assert torch.equal(copied.tokenize(["a hat"]), ids)
    assert copied.model_cfg == small_model.model_cfg
    assert copied.model_cfg is not small_model.model_cfg
    copied.log_logit_scale.data.add_(1)
    assert copied.log_logit_scale != small_model.log_logit_scale

"""Models of the transformers library: parity with its own features, the same weights through open_clip, use."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import UnsupportedError
from clip_antidote.models import DualEncoder, HFEncoder, activation_check, load_model
from clip_antidote.models.build import build_open_clip
from clip_antidote.models.saving import save_model
from clip_antidote.prompts.class_prompts import ClassPrompts
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from conftest import Cli, draw_photos

transformers = pytest.importorskip("transformers")

from hf_models import (  # noqa: E402  (needs the tokenizers that come with transformers)
    CLIP_TEXT,
    CLIP_VISION,
    MEAN,
    STD,
    TEXTS,
    write_clip,
    write_clip_tokenizer,
    write_preprocessor,
    write_siglip,
)

TOLERANCE = 1e-4


def _make_siglip(folder: Path) -> Any:
    pytest.importorskip("sentencepiece")
    return write_siglip(folder)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "clip": write_clip,
    "clip with the old end token": lambda folder: write_clip(folder, eos_token_id=2),
    "siglip": _make_siglip,
    "siglip2": lambda folder: write_siglip(folder, second=True),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder, and the model in it as transformers made it."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    return folder, MAKERS[request.param](folder)


@pytest.fixture(scope="module")
def encoder(made: tuple[Path, Any]) -> HFEncoder:
    loaded = load_model(f"hf:{made[0]}")
    assert isinstance(loaded, HFEncoder)
    return loaded


def _own(output: Any) -> torch.Tensor:
    """transformers' features as unit vectors, in its version 4 or 5."""
    return F.normalize(output if isinstance(output, torch.Tensor) else output.pooler_output, dim=-1)


def test_texts_that_are_cut_are_told(encoder: HFEncoder) -> None:
    long = "a cat " * 40
    assert encoder.overlong(["a cat", "", long, "x " * (encoder.context_length // 2 - 8)]) == [2]
    with pytest.raises(UnsupportedError, match=rf"'a cat a cat .* into the model's {encoder.context_length} tokens"):
        ClassPrompts(encoder, ["a dog", long])
    with pytest.raises(UnsupportedError, match="the class name 'a cat a cat"):
        zero_shot_weights(encoder, ["a dog", long])


@torch.no_grad()
def test_text_features_equal_those_of_transformers(made: tuple[Path, Any], encoder: HFEncoder) -> None:
    ids = encoder.tokenize(TEXTS)
    expected = _own(made[1].get_text_features(input_ids=ids))

    torch.testing.assert_close(encoder.encode_token_ids(ids), expected, atol=TOLERANCE, rtol=0)
    end = encoder.end_positions(ids)
    whole = encoder.encode_token_embeddings(encoder.embed_tokens(ids), end)
    torch.testing.assert_close(whole, expected, atol=TOLERANCE, rtol=0)
    assert (expected[0] - expected[1]).norm() > 1e-2


@torch.no_grad()
def test_image_features_equal_those_of_transformers(made: tuple[Path, Any], encoder: HFEncoder) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    normalized = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = _own(made[1].get_image_features(pixel_values=normalized))

    torch.testing.assert_close(encoder.encode_images(images), expected, atol=TOLERANCE, rtol=0)
    assert (expected[0] - expected[1]).norm() > 1e-3


@torch.no_grad()
def test_logits_equal_those_of_transformers(made: tuple[Path, Any], encoder: HFEncoder) -> None:
    images, ids = torch.rand(2, 3, 32, 32), encoder.tokenize(TEXTS)
    normalized = (images - encoder.image_mean) / encoder.image_std
    expected = made[1](input_ids=ids, pixel_values=normalized).logits_per_image
    logits = encoder.logit_scale * encoder.encode_images(images) @ encoder.encode_token_ids(ids).T
    bias = encoder.logit_bias

    assert (bias is not None) is (not encoder.causal)
    torch.testing.assert_close(logits if bias is None else logits + bias, expected, atol=1e-3, rtol=0)


def test_token_ids_equal_those_of_transformers(made: tuple[Path, Any], encoder: HFEncoder) -> None:
    own = transformers.AutoTokenizer.from_pretrained(made[0], local_files_only=True)
    lower = [text.lower() for text in TEXTS]  # which transformers leaves to the user with SigLIP2's tokenizer
    expected = own(
        lower, padding="max_length", truncation=True, max_length=encoder.context_length, return_tensors="pt"
    )
    assert torch.equal(encoder.tokenize(TEXTS), expected["input_ids"])
    assert torch.equal(encoder.tokenize(["A Photo"]), encoder.tokenize(["a photo"]))


def test_siglip_strips_punctuation(tmp_path: Path) -> None:
    _make_siglip(tmp_path)
    model = load_model(f"hf:{tmp_path}")

    assert torch.equal(model.tokenize(["A photo, of a CAT!"]), model.tokenize(["a photo of a cat"]))
    assert not torch.equal(model.tokenize(["a photo of a cat"]), model.tokenize(["a photo of a dog"]))


@torch.no_grad()
def test_nothing_is_cut_off_where_the_last_token_is_pooled(encoder: HFEncoder) -> None:
    ids = encoder.tokenize(["a cat"])
    end = encoder.end_positions(ids)
    changed = encoder.embed_tokens(ids).clone()
    padding = int((ids[0] != ids[0, -1]).sum()) + 1
    changed[:, padding:] = torch.randn_like(changed[:, padding:])
    same = torch.allclose(
        encoder.encode_token_embeddings(changed, end), encoder.encode_token_ids(ids), atol=TOLERANCE
    )
    assert same is encoder.causal
    assert encoder.causal or int(end) == encoder.context_length - 1 == 63


def test_gradients_reach_the_embeddings_alone(encoder: HFEncoder) -> None:
    ids = encoder.tokenize(TEXTS[:2])
    embeddings = encoder.embed_tokens(ids).detach().requires_grad_()
    with encoder.frozen():
        encoder.encode_token_embeddings(embeddings, encoder.end_positions(ids))[:, 0].sum().backward()
    assert embeddings.grad is not None
    assert bool((embeddings.grad.abs().sum(dim=(1, 2)) > 0).all())


def test_every_way_to_name_the_folder_gives_the_same(made: tuple[Path, Any], encoder: HFEncoder) -> None:
    for spec in (f"local-dir:{made[0]}", str(made[0])):
        loaded = load_model(spec)
        assert isinstance(loaded, HFEncoder)
        assert (loaded.sha256, loaded.spec) == (encoder.sha256, f"local-dir:{made[0]}")
    assert encoder.spec == f"hf:{made[0]}"
    assert encoder.preprocess_cfg["mean"] == MEAN
    assert encoder.resize_mode == ("shortest" if encoder.causal else "squash")


STEPS = {
    "inversion": {
        "batch_size": 4,
        "survey": {"steps": 2, "wave_most": 1},
        "final_steps": 2,
        "alarm": 1.0,
    },
    "tuning": {"steps": 3},
    "gate": {"target_views": 4, "min_flip": 0.0},
    "pool": 16,
    "precision": "fp32",
}


def test_a_few_steps_purify_it(encoder: HFEncoder, train_images: LabelledImages, tmp_path: Path) -> None:
    shots = train_images.sample_shots(2, seed=0)
    before = copy.deepcopy(encoder.model.state_dict())
    purified = purify(encoder, shots, CBPTConfig.build(STEPS), templates=("a photo of a {}.",))
    purified.save_pretrained(tmp_path / "purified")
    again = PurifiedCLIP.from_pretrained(tmp_path / "purified")
    images = torch.rand(2, 3, 50, 40)

    assert purified.targets_suspected
    assert isinstance(again.model, HFEncoder)
    torch.testing.assert_close(again(images), purified(images))
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


def to_transformers(model: Any, folder: Path, *, quick: bool) -> None:
    """Writes the weights of an open_clip model of CLIP_TEXT's and CLIP_VISION's sizes in transformers' layout."""
    act = "quick_gelu" if quick else "gelu"
    config = transformers.CLIPConfig(
        text_config={**CLIP_TEXT, "hidden_act": act},
        vision_config={**CLIP_VISION, "hidden_act": act},
        projection_dim=16,
    )
    state = dict(model.state_dict())
    out = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for end in ("weight", "bias"):
        out[f"text_model.final_layer_norm.{end}"] = state[f"ln_final.{end}"]
        out[f"vision_model.pre_layrnorm.{end}"] = state[f"visual.ln_pre.{end}"]
        out[f"vision_model.post_layernorm.{end}"] = state[f"visual.ln_post.{end}"]
        for theirs, ours in (("text_model", ""), ("vision_model", "visual.")):
            for layer in range(2):
                block, encoder = f"{ours}transformer.resblocks.{layer}.", f"{theirs}.encoder.layers.{layer}."
                parts = state[f"{block}attn.in_proj_{end}"].chunk(3)
                for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                    out[f"{encoder}self_attn.{name}.{end}"] = part
                for name, own in (
                    ("self_attn.out_proj", "attn.out_proj"),
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                ):
                    out[f"{encoder}{name}.{end}"] = state[f"{block}{own}.{end}"]
    converted = transformers.CLIPModel(config)
    missing, unexpected = converted.load_state_dict(out, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    converted.save_pretrained(folder)
    write_clip_tokenizer(folder)
    write_preprocessor(folder, size=32, do_center_crop=True, crop_size=32)  # as OpenAI's own repositories have it


@torch.no_grad()
@pytest.mark.parametrize("quick", [True, False])
def test_the_same_weights_give_the_same_through_open_clip(tmp_path: Path, quick: bool) -> None:
    torch.manual_seed(3)
    vision: dict[str, Any] = {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
        "mlp_ratio": 2.0,
    }
    text: dict[str, Any] = {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "mlp_ratio": 2.0,
    }
    cfg: dict[str, Any] = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick}
    own = build_open_clip(cfg, {"mean": MEAN, "std": STD})
    for parameter in own.model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    to_transformers(own.model, tmp_path, quick=quick)
    loaded = load_model(f"hf:{tmp_path}")
    images = torch.rand(3, 3, 48, 40)

    for line in TEXTS:  # behind the end the one pads with the end token, the other with 0
        ids, theirs = own.tokenize([line]), loaded.tokenize([line])
        stop = int(own.end_positions(ids)) + 1
        assert torch.equal(theirs[:, :stop], ids[:, :stop])
    torch.testing.assert_close(loaded.encode_texts(TEXTS), own.encode_texts(TEXTS), atol=TOLERANCE, rtol=0)
    fitted = loaded.fit_images(images)
    assert torch.equal(fitted, own.fit_images(images))
    torch.testing.assert_close(loaded.encode_images(fitted), own.encode_images(fitted), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(loaded.logit_scale, own.logit_scale)


def test_the_other_activation_is_tried_and_put_back(tmp_path: Path) -> None:
    write_clip(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    places = model.activations()
    assert len(places) == 4
    assert "hidden_act 'gelu'" in model.activation_advice(quick=False)
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        before = model.encode_images(images)
        assert activation_check(model, images, labels, ["cat", "dog"], margin=1.0) is None
        assert torch.equal(model.encode_images(images), before)
        for parent, name, _ in places:
            setattr(parent, name, torch.nn.GELU())
        assert not torch.allclose(model.encode_images(images), before, atol=1e-6)


def test_a_changed_model_is_written_as_it_was_read(encoder: HFEncoder, tmp_path: Path) -> None:
    changed: DualEncoder = copy.deepcopy(encoder)
    with torch.no_grad():
        changed.log_logit_scale.add_(0.5)
    save_model(changed, tmp_path)
    again = load_model(f"local-dir:{tmp_path}")

    torch.testing.assert_close(again.log_logit_scale, encoder.log_logit_scale + 0.5)
    with torch.no_grad():
        assert torch.equal(again.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_the_command_line_takes_such_a_folder(tmp_path: Path, cli: Cli) -> None:
    write_clip(tmp_path / "model")
    draw_photos(tmp_path / "problem" / "train", classes=("cat", "dog", "hat"), count=4)
    draw_photos(tmp_path / "problem" / "test", classes=("cat", "dog", "hat"), count=2)
    result = cli("evaluate", f"hf:{tmp_path / 'model'}", "--data", tmp_path / "problem", "--json", "out.json")

    assert result.status == 0, result.err
    assert 0 <= json.loads((tmp_path / "out.json").read_text())["ca"] <= 1

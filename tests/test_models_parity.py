"""Our text forward from embeddings against open_clip's own, with random weights."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch

from clip_antidote.errors import UnsupportedError
from clip_antidote.models import OpenCLIPEncoder
from clip_antidote.models.build import build_open_clip

TOLERANCE = 1e-5
PROMPTS = ["a photo of a cat", "a somewhat longer photo of a very small dog, at night", ""]


def _light_cfg(arch: str) -> dict[str, Any]:
    """A real configuration with fewer layers; what differs between text towers stays."""
    cfg: dict[str, Any] = open_clip.get_model_config(arch)
    vision = cfg["vision_cfg"]
    if isinstance(vision.get("layers"), list):
        vision.update(layers=[1, 1, 1, 1], width=16, image_size=64)
    elif "layers" in vision:
        vision.update(layers=1, width=64)
    else:
        vision.update(timm_model_name="resnet10t", timm_pool="avg", timm_proj="linear", image_size=64)
    cfg["text_cfg"]["layers"] = 2
    cfg["text_cfg"]["vocab_size"] = min(cfg["text_cfg"]["vocab_size"], 49408)
    return cfg


@pytest.fixture(
    scope="module",
    params=["RN50", "ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "EVA02-B-16"],
)
def encoder(request: pytest.FixtureRequest) -> OpenCLIPEncoder:
    torch.manual_seed(0)
    cfg = _light_cfg(request.param)
    built = build_open_clip(cfg).eval()
    with torch.no_grad():  # random weights of useful size: fresh biases and positions are almost zero
        for parameter in built.model.parameters():
            if parameter.ndim < 3:
                parameter.add_(0.02 * torch.randn_like(parameter))
    built.spec = request.param
    return built


def _token_ids(encoder: OpenCLIPEncoder) -> torch.Tensor:
    if encoder.causal:
        return encoder.tokenize(PROMPTS)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, encoder.model.vocab_size, (3, encoder.context_length), generator=generator)


@torch.no_grad()
def test_text_features_equal_those_of_open_clip(encoder: OpenCLIPEncoder) -> None:
    token_ids = _token_ids(encoder)
    expected = encoder.model.encode_text(token_ids, normalize=True)

    torch.testing.assert_close(encoder.encode_token_ids(token_ids), expected, atol=TOLERANCE, rtol=0)
    assert (expected[0] - expected[1]).norm() > 1e-3


@torch.no_grad()
def test_embeddings_at_full_length_give_the_same(encoder: OpenCLIPEncoder) -> None:
    token_ids = _token_ids(encoder)
    end = encoder.end_positions(token_ids)
    features = encoder.encode_token_embeddings(encoder.embed_tokens(token_ids), end)

    expected = encoder.model.encode_text(token_ids, normalize=True)
    torch.testing.assert_close(features, expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_causal_towers_allow_cutting_after_the_longest_end(encoder: OpenCLIPEncoder) -> None:
    if not encoder.causal:
        assert "SigLIP" in encoder.spec
        return
    token_ids = _token_ids(encoder)
    end = encoder.end_positions(token_ids)
    cut = token_ids[:, : int(end.max()) + 1]
    assert cut.shape[1] < encoder.context_length
    features = encoder.encode_token_embeddings(encoder.embed_tokens(cut), end)

    expected = encoder.model.encode_text(token_ids, normalize=True)
    torch.testing.assert_close(features, expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_image_features_equal_those_of_open_clip(encoder: OpenCLIPEncoder) -> None:
    size = encoder.image_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    normalized = (images - encoder.image_mean) / encoder.image_std
    expected = encoder.model.encode_image(normalized, normalize=True)

    torch.testing.assert_close(encoder.encode_images(images), expected, atol=TOLERANCE, rtol=0)


def test_gradients_reach_the_embeddings(encoder: OpenCLIPEncoder) -> None:
    token_ids = _token_ids(encoder)
    embeddings = encoder.embed_tokens(token_ids).detach().requires_grad_()
    encoder.encode_token_embeddings(embeddings, encoder.end_positions(token_ids))[:, 0].sum().backward()

    assert embeddings.grad is not None
    assert bool((embeddings.grad.abs().sum(dim=(1, 2)) > 0).all())


@pytest.mark.parametrize("arch", ["coca_ViT-B-32", "roberta-ViT-B-32", "coca_roberta-ViT-B-32", "nllb-clip-base"])
def test_text_towers_without_prompts_are_refused(arch: str) -> None:
    with pytest.raises(UnsupportedError, match="class prompts"):
        build_open_clip(open_clip.get_model_config(arch))

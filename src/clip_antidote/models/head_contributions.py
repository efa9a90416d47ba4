"""What every attention head and MLP of a ViT adds to a feature (Gandelsman et al. 2024, arXiv:2310.05916)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import nn

from clip_antidote.errors import RefusedError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import image_tower, transformer_blocks
from clip_antidote.models.layers import watched


def has_heads(model: DualEncoder) -> bool:
    """Whether its image tower is a ViT of open_clip that ends with its class token, a norm and a projection."""
    tower, blocks = image_tower(model), transformer_blocks(model)
    return (
        isinstance(tower, VisionTransformer)
        and tower.pool_type == "tok"
        and tower.attn_pool is None
        and tower.proj is not None
        and isinstance(tower.ln_post, nn.LayerNorm)
        and bool(blocks)
        and all(isinstance(block.attn, nn.MultiheadAttention) for block in blocks)
    )


def head_contributions(model: DualEncoder, images: torch.Tensor) -> torch.Tensor:
    """Splits features before their normalization into what each part of the tower adds to the class token.

    The stream of the class token is a sum: what enters the blocks, each head's and each MLP's output. The last norm
    is linear once its mean and deviation are those of the sum, so the parts go through it one by one.

    Args:
        model: A model for which `has_heads` holds, in evaluation mode.
        images: Float [N, 3, S, S] in [0, 1].

    Returns:
        [N, blocks · (heads + 1) + 1, D]: block by block its heads, then its MLP; at last everything else (what
        entered the blocks, and all biases). The sum over the parts is `raw_image_features`.

    Raises:
        RefusedError: The image tower is another one.
    """
    if not has_heads(model):
        raise RefusedError("only a ViT image tower of open_clip can be split into its heads; this model has none")
    tower: Any = image_tower(model)
    blocks: list[Any] = transformer_blocks(model)
    seen: dict[int, torch.Tensor] = {}
    places = [place for block in blocks for place in (block.ln_1, block.mlp)]
    with watched([*places, blocks[-1]], seen.__setitem__):
        model.raw_image_features(images)
    if not getattr(tower.transformer, "batch_first", True):
        seen = {number: output.transpose(0, 1) for number, output in seen.items()}
    parts = []
    for number, block in enumerate(blocks):
        parts.append(block.ls_1(_heads(block.attn, seen[2 * number])))
        parts.append(block.ls_2(seen[2 * number + 1][:, :1]))
    added = torch.cat(parts, dim=1)
    end = seen[len(places)][:, 0]
    rest = (end - added.sum(dim=1))[:, None]
    return _through_norm(tower, torch.cat([added, rest], dim=1), end)


def _heads(attention: nn.MultiheadAttention, tokens: torch.Tensor) -> torch.Tensor:
    """What each head gives the class token, [N, heads, W], of normalized tokens [N, L, W]; without the bias."""
    count, width = attention.num_heads, attention.embed_dim
    query, key, value = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (x.unflatten(-1, (count, -1)).transpose(1, 2) for x in (query[:, :1], key, value))
    heads = F.scaled_dot_product_attention(query, key, value)[:, :, 0]
    outward = attention.out_proj.weight.view(width, count, width // count)
    return torch.einsum("nhd,whd->nhw", heads, outward)


def _through_norm(tower: Any, parts: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Takes parts [N, K, W] of the stream's end [N, W] through the last norm; its offset goes to the last part."""
    norm = tower.ln_post
    deviation = (end.var(dim=-1, correction=0) + norm.eps).sqrt()[:, None, None]
    normed = (parts - parts.mean(dim=-1, keepdim=True)) / deviation * norm.weight
    normed[:, -1] += norm.bias
    return normed @ tower.proj

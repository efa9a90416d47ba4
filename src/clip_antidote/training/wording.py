"""Augmentation of captions that are token ids already, for any tokenizer."""

from __future__ import annotations

import torch


def reworded(token_ids: torch.Tensor, *, share: float, generator: torch.Generator) -> torch.Tensor:
    """Moves words of every caption, or leaves some out, by a coin.

    Two of the four operations of EDA (Wei and Zou 2019, arXiv 1901.11196), on tokens: random swap and random
    deletion. The other two need a thesaurus. The first token and the last before the padding stay, so that the
    beginning and the end of a text stay what they are.

    Args:
        token_ids: int64 [T, L], padded behind with one and the same token.
        share: Share of the words that change, rounded up to one; 0 changes nothing.
        generator: CPU generator of the randomness.

    Returns:
        int64 [T, L].
    """
    if not share:
        return token_ids
    out = token_ids.clone()
    for row in out:
        padding = row[-1].item()
        trailing = int((row.flip(0) != padding).int().argmax())
        words = len(row) - trailing - 2
        if words < 2:
            continue
        changes = max(1, round(share * words))
        order = torch.randperm(words, generator=generator) + 1
        if torch.rand((), generator=generator) < 0.5:
            moved = order[: max(2, min(words, 2 * changes))]
            row[moved] = row[moved.roll(1)]
        else:
            kept = torch.ones(len(row), dtype=torch.bool)
            kept[order[: min(changes, words - 1)]] = False
            left = row[kept]
            row[:] = padding
            row[: len(left)] = left
    return out

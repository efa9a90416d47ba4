"""Class-wise learnable prompts and their forward through the frozen text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clip_antidote.errors import UnsupportedError
from clip_antidote.models.dual_encoder import DualEncoder

CONTEXT_WORDS = "a photo of a"


def check_prompts(model: DualEncoder, classes: Sequence[str], length: int) -> None:
    """Makes sure before any work that the prompts of all classes fit into the text encoder.

    Args:
        model: The model.
        classes: Class names.
        length: Number of context tokens per class.

    Raises:
        UnsupportedError: One does not.
    """
    overlong = model.overlong(_placeholders(classes, length))
    if overlong:
        raise UnsupportedError(
            f"the prompt of '{classes[overlong[0]]:.60}' with {length} context tokens does not fit into the model's "
            f"{model.context_length} tokens; shorten the class name or lower context_length"
        )


def _placeholders(classes: Sequence[str], length: int) -> list[str]:
    """Texts with a word in the place of every context token."""
    return [f"{' '.join(['x'] * length)} {name}." for name in classes]


class ClassPrompts(nn.Module):
    """One learnable context per class: `[start] v_c1 … v_cM  name . [end]`.

    The context starts at the token embeddings of "a photo of a", so that before any step the prompts
    give the hand-written classifier of the template "a photo of a {}." (for M = 4). This is the
    class-specific context of CoOp (Zhou et al. 2022).

    Args:
        model: The model whose text encoder is used; it is neither changed nor owned.
        classes: C class names.
        length: Number M of context tokens per class.
        shared: One context for all classes instead, CoOp's unified one, for comparison.

    Attributes:
        context: [C, M, Dt], or [1, M, Dt] where it is shared; the only parameter.

    Raises:
        UnsupportedError: A prompt does not fit into the text encoder's context.
    """

    def __init__(self, model: DualEncoder, classes: Sequence[str], *, length: int = 4, shared: bool = False) -> None:
        super().__init__()
        check_prompts(model, classes, length)
        ids = model.tokenize(_placeholders(classes, length)).to(model.device)
        end = model.end_positions(ids)
        if model.causal:
            ids = ids[:, : int(end.max()) + 1]
        words = model.tokenize([f"{CONTEXT_WORDS} {classes[0]}."]).to(model.device)
        with torch.no_grad():
            embedded = model.embed_tokens(ids).float()
            start = 1 if self._starts_with_special(model) else 0
            initial = model.embed_tokens(words)[0, start : start + 4].float()
        repeats = -(-length // len(initial))
        initial = initial.repeat(repeats, 1)[-length:]
        self.register_buffer("prefix", embedded[:, :start], persistent=False)
        self.register_buffer("suffix", embedded[:, start + length :], persistent=False)
        self.register_buffer("end", end, persistent=False)
        self.prefix: torch.Tensor
        self.suffix: torch.Tensor
        self.end: torch.Tensor
        self.causal = model.causal
        self.context = nn.Parameter(initial.expand(1 if shared else len(classes), -1, -1).clone())

    @staticmethod
    def _starts_with_special(model: DualEncoder) -> bool:
        """Whether the tokenizer puts a start token first: then two texts share their first id."""
        first = model.tokenize(["dog", "photo"])[:, 0]
        return bool(first[0] == first[1])

    def __len__(self) -> int:
        return len(self.end)

    @property
    def contexts(self) -> torch.Tensor:
        """The context of every class [C, M, Dt], the same for all where it is shared."""
        return self.context.expand(len(self), -1, -1)

    def embeddings(self, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns token embeddings [c, L, Dt] and end positions [c] of all or some classes.

        A causal text encoder sees nothing behind the end token, so L is the longest of these prompts.
        """
        if rows is None:
            return torch.cat([self.prefix, self.contexts, self.suffix], dim=1), self.end
        end = self.end[rows]
        embedded = torch.cat([self.prefix[rows], self.contexts[rows], self.suffix[rows]], dim=1)
        return (embedded[:, : int(end.max()) + 1] if self.causal else embedded), end


def encode_prompts(model: DualEncoder, prompts: ClassPrompts, *, chunk: int | None = None) -> torch.Tensor:
    """Runs all prompts through the text encoder, with exact gradients to the contexts.

    With `chunk`, at most that many classes' activations are alive at a time: each chunk is run
    again in the backward pass (gradient checkpointing), so that memory does not grow with C. Classes
    with names of like length share a chunk, and no chunk is longer than its longest prompt.

    Args:
        model: Frozen model.
        prompts: C prompts.
        chunk: Classes per chunk; None runs all at once without recomputation.

    Returns:
        Unit class weights [C, D].
    """
    count = len(prompts)
    if chunk is None or chunk >= count:
        return model.encode_token_embeddings(*prompts.embeddings())
    parts = []
    order = prompts.end.argsort(stable=True)
    for rows in order.split(chunk):
        embeddings, end = prompts.embeddings(rows)
        if torch.is_grad_enabled():
            parts.append(checkpoint(model.encode_token_embeddings, embeddings, end, use_reentrant=False))
        else:
            parts.append(model.encode_token_embeddings(embeddings, end))
    return torch.cat(parts)[order.argsort()]

"""Why a defense cannot run here: the one place that decides it."""

from __future__ import annotations

from clip_antidote.defenses.base import Given
from clip_antidote.defenses.profile import Profile
from clip_antidote.models.image_tower import has_projection, scaled_norms, stages, transformer_blocks


def refusal(name: str, profile: Profile, given: Given) -> str | None:
    """Says in one sentence why a defense cannot run; None where it can.

    Args:
        name: Name of the defense.
        profile: Its profile.
        given: Suspect, shots, base model and truth as they would be handed to it.
    """
    needs, model, shots = profile.needs, given.model, given.shots
    if needs.truth and given.truth is None:
        return f"'{name}' is an oracle and needs the true trigger and target, which only a benchmark knows; name them"
    if needs.base and given.base is None:
        return f"'{name}' needs a trusted model of the same architecture; name it with --base"
    if needs.base and given.base is not None and _shapes(given) is not None:
        return f"'{name}' needs a base model of the suspect's architecture; {_shapes(given)}"
    counts = shots.labels.bincount(minlength=len(shots.classes))
    if int(counts.min()) < needs.shots:
        few = shots.classes[int(counts.argmin())]
        return (
            f"'{name}' needs at least {needs.shots} clean images of every class, but '{few}' has "
            f"{int(counts.min())}; add images or raise --shots"
        )
    if len(shots) < needs.images:
        return f"'{name}' needs at least {needs.images} clean images, there are {len(shots)}; raise --shots"
    if needs.vit and not transformer_blocks(model):
        return f"'{name}' needs a ViT image tower, into whose blocks it puts prompts; this model has another one"
    if needs.norms and not scaled_norms(model):
        return f"'{name}' needs normalization layers with a scale in the image tower; this model has none"
    if needs.stages and not stages(model):
        return f"'{name}' compares the stages of the image tower; those of this model are not known"
    if needs.projection and not has_projection(model):
        return f"'{name}' needs an image tower that ends with a linear projection; this model's does not"
    return None


def _shapes(given: Given) -> str | None:
    """What differs in the architectures of suspect and base, None where they are the same."""
    assert given.base is not None
    own, other = (
        {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for model in (given.model, given.base)
    )
    differing = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
    return f"they differ in {differing[0]} and {len(differing) - 1} other tensors" if differing else None

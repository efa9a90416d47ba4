"""An explanation as a piece of HTML, with everything escaped and all pictures inside."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined

from clip_antidote.evaluation.metric_table import percent
from clip_antidote.jobs.explanation import Explanation
from clip_antidote.plain import plain
from clip_antidote.reporting.heat import heat_overlay
from clip_antidote.reporting.html import data_uri, escaping_environment
from clip_antidote.reporting.images import to_png

SHOWN = 5
"""Classes shown of either answer."""


def render_explanation(said: Explanation, *, trigger: str | None = None, strength: float = 1.0) -> str:
    """Renders an explanation.

    Args:
        said: What to show.
        trigger: Name of the trigger that the image carries.
        strength: How much of it.

    Returns:
        HTML without scripts that loads nothing; names of classes and triggers are escaped.
    """
    heats = [
        (title, ranked[0].name, found, heat_overlay(said.image, found.heat))
        for title, ranked, found in (
            ("before", said.before, said.heat_before),
            ("after", said.after, said.heat_after),
        )
    ]
    agreeing = sum(vote.agrees for vote in said.votes)
    return _render(
        "answer.html.j2", said=said, heats=heats, agreeing=agreeing, shown=SHOWN, trigger=trigger, strength=strength
    )


def render_problem(sentence: str) -> str:
    """Renders a sentence about what went wrong."""
    return _render("problem.html.j2", sentence=sentence)


def render_welcome(triggers: int) -> str:
    """Renders what stands on the page before the first image."""
    return _render("welcome.html.j2", triggers=triggers)


def page_css() -> str:
    """How the page looks, light and dark; blue is good and orange is not, as in the report."""
    return (files(__package__) / "templates" / "page.css").read_text(encoding="utf-8")


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def _signed(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")


def _picture(image: torch.Tensor) -> str:
    return data_uri(to_png(image))


@cache
def _environment() -> Environment:
    environment = escaping_environment("clip_antidote.serving", StrictUndefined)
    environment.filters.update(picture=_picture, percent=percent, plain=plain, signed=_signed)
    return environment

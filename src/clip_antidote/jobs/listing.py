"""What `clip-antidote ls` lists."""

from __future__ import annotations

from typing import Any

from clip_antidote.attacks import ATTACKS
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.profile import Profile
from clip_antidote.defenses.profiles import PLUGIN_PROFILES, PROFILES
from clip_antidote.detectors import DETECTORS
from clip_antidote.errors import PluginError, UsageError
from clip_antidote.models.spec import SPEC_FORMS
from clip_antidote.plugins import Plugin
from clip_antidote.registry import Registry
from clip_antidote.screening import SCORES
from clip_antidote.training.methods import METHODS
from clip_antidote.triggers import TRIGGERS

REGISTRIES: dict[str, Registry[Any]] = {
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "detectors": DETECTORS,
    "triggers": TRIGGERS,
    "scores": SCORES,
    "training-methods": METHODS,
}
UNSAID = "not said before it is loaded"
"""What stands where a plug-in brings no profile to read."""


def list_kind(what: str) -> dict[str, str]:
    """Returns names and a line about each: a kind of `REGISTRIES`, or models.

    Raises:
        UsageError: There is no such kind.
    """
    if what == "models":
        return SPEC_FORMS
    if what not in REGISTRIES:
        raise UsageError(f"cannot list '{what}'; known are {', '.join([*REGISTRIES, 'models'])}")
    return REGISTRIES[what].describe()


def left_out(what: str) -> list[str]:
    """Returns a sentence about every plug-in of this kind that is not listed."""
    registries: list[Registry[Any]] = [REGISTRIES[what]] if what in REGISTRIES else []
    return [sentence for registry in registries for sentence in registry.plugins().left_out.values()]


def list_defenses() -> dict[str, dict[str, str]]:
    """Returns of every defense by its name: what it is, needs and changes, its paper, and its package."""
    own = {name: _row(text, PROFILES[name]) for name, (_, text) in DEFENSES.entries.items()}
    rows = {name: {**row, "package": "clip-antidote"} for name, row in own.items()}
    profiles = PLUGIN_PROFILES.plugins().known
    for name, plugin in DEFENSES.plugins().known.items():
        beside = profiles.get(name)
        ours = beside is not None and beside.distribution == plugin.distribution
        rows[name] = {**_plugin_row(plugin, beside if ours else None), "package": plugin.distribution}
    return rows


def _row(text: str, profile: Profile) -> dict[str, str]:
    arxiv = f" (arXiv {profile.arxiv})" if profile.arxiv else ""
    return {
        "text": text,
        "needs": "; ".join(profile.needs.in_words()) or "nothing",
        "changes": profile.changed(),
        "paper": f"{profile.paper}{arxiv}",
    }


def _plugin_row(plugin: Plugin, profile: Plugin | None) -> dict[str, str]:
    row = {"text": plugin.describe(), "needs": UNSAID, "changes": UNSAID, "paper": UNSAID}
    if profile is None:
        return row
    try:
        return _row(plugin.describe(), PLUGIN_PROFILES.get(plugin.name))
    except PluginError as error:
        return {**row, "needs": str(error)}

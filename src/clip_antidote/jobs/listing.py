"""What `clip-antidote ls` lists."""

from __future__ import annotations

from clip_antidote.attacks import ATTACKS
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.detectors import DETECTORS
from clip_antidote.errors import UsageError
from clip_antidote.models.spec import SPEC_FORMS
from clip_antidote.triggers import TRIGGERS


def list_kind(what: str) -> dict[str, str]:
    """Returns names and a line about each: attacks, defenses, detectors, triggers or models.

    Raises:
        UsageError: There is no such kind.
    """
    kinds = {
        "attacks": ATTACKS.describe(),
        "defenses": DEFENSES.describe(),
        "detectors": DETECTORS.describe(),
        "triggers": TRIGGERS.describe(),
        "models": SPEC_FORMS,
    }
    if what not in kinds:
        raise UsageError(f"cannot list '{what}'; known are {', '.join(kinds)}")
    return kinds[what]


def list_defenses() -> dict[str, dict[str, str]]:
    """Returns of every defense by its name: what it is, what it needs, what it changes, and its paper."""
    rows = {}
    for name, text in DEFENSES.describe().items():
        profile = PROFILES.get(name) or DEFENSES.get(name).profile  # of others, it stands on the class alone
        arxiv = f" (arXiv {profile.arxiv})" if profile.arxiv else ""
        rows[name] = {
            "text": text,
            "needs": "; ".join(profile.needs.in_words()) or "nothing",
            "changes": profile.changed(),
            "paper": f"{profile.paper}{arxiv}",
        }
    return rows

"""The table of docs/defenses.md, from the registry and the profiles."""

from __future__ import annotations

from source import Records, table

from clip_antidote.benchmark.tables import markdown
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.profiles import PROFILES


@table("defenses")
def _(records: Records) -> str:
    rows = []
    for name in DEFENSES.names():
        profile = PROFILES[name]
        source = f"{profile.paper}, arXiv {profile.arxiv}" if profile.arxiv else profile.paper
        needs = "; ".join(profile.needs.in_words()) or "nothing"
        rows.append([f"`{name}`", source, profile.changed(), needs, profile.differs])
    return markdown(["name", "from", "changes", "needs", "what differs here"], rows)

"""The page of a leaderboard, in the look of the reports; the one page here with a script, which sorts."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from markupsafe import Markup

from clip_antidote.reporting.html import report_environment


def render_board(**content: Any) -> str:
    """Renders a leaderboard as one HTML page that loads nothing from elsewhere.

    Its content security policy allows this script alone, by its hash: whatever text of others held, it would not run.

    Args:
        content: What `benchmark.leaderboard` gathers; cells with text, value, interval and link.

    Returns:
        The page; all text is escaped. Without scripts it reads the same and does not sort.
    """
    script = (resources.files("clip_antidote.reporting") / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    template = report_environment().get_template("board.html.j2")
    return template.render(**content, script=Markup(script), script_hash=Markup("'sha256-{}'").format(digest))

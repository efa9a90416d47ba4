"""What a question to the page may name: uploads, and no other file of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def names_only_uploads(question: bytes, folder: Path) -> bool:
    """Whether every "path" in a question is that of something inside a folder.

    Gradio copies what a path names to its own place, or fetches it where it is a URL, before the page is asked.

    Args:
        question: The body of a request, JSON.
        folder: Where uploads lie, resolved.
    """
    try:
        waiting: list[Any] = [json.loads(question)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                if "path" in value and folder not in Path(value["path"]).resolve().parents:
                    return False
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
    except (ValueError, TypeError, RecursionError, OSError, RuntimeError):
        return False
    return True

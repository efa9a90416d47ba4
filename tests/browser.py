"""A headless browser for tests that look at pages; they are skipped where there is none, and say so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SKIPPED = "no page was looked at in a browser"
"""How the reason begins where a test is skipped for want of a browser."""

_QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
_QUIET += " --disable-component-update --disable-sync --host-resolver-rules=MAP\t*\t~NOTFOUND,EXCLUDE\t127.0.0.1"
"""Nothing is looked up: what a page loads from elsewhere fails."""


@contextmanager
def browser() -> Iterator[Any]:
    """A running Chromium of this machine, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"{SKIPPED}: playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip(f"{SKIPPED}: there is no chromium, chromium-browser or google-chrome on the PATH")
    with playwright.sync_playwright() as run:
        chromium = run.chromium.launch(
            executable_path=program, args=[argument.replace("\t", " ") for argument in _QUIET.split(" ")]
        )
        try:
            yield chromium
        finally:
            chromium.close()


def sideways(page: Any) -> int:
    """How many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

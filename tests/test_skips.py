"""Where there is no browser, a run of the tests says that no page was looked at."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import browser

ROOT = Path(__file__).parents[1]


def test_a_missing_browser_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", browser)  # some module that can be imported
    monkeypatch.setattr("shutil.which", lambda name: None)
    with (
        pytest.raises(pytest.skip.Exception, match="no page was looked at in a browser: there is no chromium"),
        browser.browser(),
    ):
        pass
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with (
        pytest.raises(pytest.skip.Exception, match="no page was looked at in a browser: playwright is not"),
        browser.browser(),
    ):
        pass


def test_reasons_are_printed(tmp_path: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    (tmp_path / "test_x.py").write_text("import pytest\n\ndef test_x():\n    pytest.skip('for want of a browser')\n")
    command = [sys.executable, "-m", "pytest", *settings["addopts"].split(), "-p", "no:cacheprovider", "test_x.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "SKIPPED [1] test_x.py:4: for want of a browser" in ran.stdout

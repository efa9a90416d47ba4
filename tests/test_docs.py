"""The tables of the documentation are what its records give."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "docs_tables"))
    return importlib.import_module("source")


@pytest.fixture
def pages(source: ModuleType) -> ModuleType:
    return importlib.import_module("pages")


def test_every_table_is_what_the_records_give(pages: ModuleType) -> None:
    stale = pages.stale_pages(ROOT, write=False)
    assert stale == [], "run `python scripts/docs_tables`"


def test_every_table_stands_in_a_page_once(pages: ModuleType, source: ModuleType) -> None:
    texts = [page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    marked = [found[2] for text in texts for found in pages.MARKED.finditer(text)]
    assert sorted(marked) == sorted(source.TABLES)
    assert sum(text.count("<!-- /table -->") for text in texts) == len(marked)


def test_a_changed_figure_is_noticed_and_mended(pages: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copytree(ROOT / "docs" / "records", tmp_path / "docs" / "records")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    page = tmp_path / "docs" / "some.md"
    text = "# Some\n\n<!-- table: recall -->\n| 1 |\n<!-- /table -->\n\nmore\n"
    page.write_text(text, encoding="utf-8")
    assert pages.stale_pages(tmp_path, write=False) == ["docs/some.md"]
    assert page.read_text(encoding="utf-8") == text
    assert pages.stale_pages(tmp_path, write=True) == ["docs/some.md"]
    assert "| **clip-antidote** | 67.3 | 52.3 |" in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").endswith("<!-- /table -->\n\nmore\n")
    assert pages.stale_pages(tmp_path, write=False) == []

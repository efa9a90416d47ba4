"""The import table of docs/architecture.md holds; nothing is too long; links lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from source_rules import (
    dead_links,
    find_imports,
    length_breaches,
    module_circles,
    read_table,
    room_circles,
    table_breaches,
)

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "clip_antidote"
CODE = ("src", "benchmarks", "scripts")


def listed(breaches: list[str]) -> str:
    return "\n".join(["", *breaches])


def test_rooms_import_what_their_row_allows() -> None:
    allowed = read_table((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert {"models", "purification", "cli"} <= allowed.keys()
    breaches = table_breaches(find_imports(PACKAGE), allowed, PACKAGE)
    assert not breaches, listed(breaches)


def test_there_are_no_circles() -> None:
    imports = find_imports(PACKAGE)
    circles = room_circles(imports, PACKAGE) + module_circles(imports)
    assert not circles, listed(circles)


def test_functions_and_modules_are_short() -> None:
    breaches = length_breaches(ROOT, CODE)
    assert not breaches, listed(breaches)


def test_links_to_documents_lead_somewhere() -> None:
    sources = [file for folder in CODE for file in (ROOT / folder).rglob("*.py")]
    dead = dead_links(ROOT, [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *sources])
    assert not dead, listed(dead)


TABLE = """
## Rooms

| room | concern | may import |
|---|---|---|
| `low` | speaks of `high` | – |
| `mid` | | `low` (parts of it) |
| `high` | | all of the above |
"""
TREE = {
    "__init__.py": "from fake.high import top",
    "errors.py": "",
    "root.py": "from fake.low import leaf\ndef later():\n    import fake.low.leaf",
    "low/__init__.py": "from fake.low.leaf import VALUE",
    "low/leaf.py": "import fake.errors\nVALUE = 1\ndef later():\n    from fake.mid.part import x",
    "mid/__init__.py": "",
    "mid/part.py": "import typing\nfrom . import twin\nif typing.TYPE_CHECKING:\n    import fake.high.top",
    "mid/twin.py": "from .part import x\nfrom ..low.leaf import VALUE",
    "high/__init__.py": "",
    "high/top.py": "from fake.low import VALUE, leaf\nfrom fake.mid import part",
    "stray/__init__.py": "",
    "stray/thing.py": "import fake.errors\nimport os",
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        file = tmp_path / "fake" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "fake"


def test_the_table_is_read() -> None:
    assert read_table(TABLE) == {"low": set(), "mid": {"low"}, "high": {"low", "mid"}}
    assert read_table(TABLE + "\n## More\n\n| `other` | | – |") == read_table(TABLE)


def test_breaches_in_a_fake_tree_are_found(fake: Path) -> None:
    imports = find_imports(fake)
    assert table_breaches(imports, read_table(TABLE), fake) == [
        "fake/low/leaf.py:4: low may not import mid",
        "fake/root.py:1: a root module imports the room low",
        "stray: the table has no such row",
    ]
    assert room_circles(imports, fake) == ["circle: low → mid → low"]
    assert module_circles(imports) == ["circle: fake.mid.part → fake.mid.twin → fake.mid.part"]


def test_lengths_and_links_are_measured(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "long.py").write_text("class A:\n    def f():\n" + "        x = 1\n" * 60 + "\n" * 189)
    (tmp_path / "src" / "fits.py").write_text('"""See docs/a.md and docs/b.md."""\ndef f():\n' + "    x = 1\n" * 59)
    assert length_breaches(tmp_path, ["src"]) == [
        "src/long.py: 251 lines, at most 250",
        "src/long.py:2: f has 61 lines, at most 60",
    ]
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "a.md"
    page.write_text("[x](a.md#y) [x](../src/fits.py) [x](https://b.c/d) [x](#y) ![x](gone.png)")
    assert dead_links(tmp_path, [page, tmp_path / "src" / "fits.py"]) == [
        "docs/a.md: gone.png does not exist",
        "src/fits.py: docs/b.md does not exist",
    ]

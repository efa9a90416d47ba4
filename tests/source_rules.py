"""Reads imports and lengths from syntax trees, and finds where they break the rules of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

MAX_FUNCTION, MAX_MODULE = 60, 250
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    """That a module imports another one of its package; lazy is an import inside of a function."""

    importer: str
    imported: str
    place: str
    lazy: bool


def find_modules(package: Path) -> dict[str, Path]:
    """From dotted names to files, for a package and all its sub-packages."""
    return {_name(file, package): file for file in sorted(package.rglob("*.py"))}


def _name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_imports(package: Path) -> list[Import]:
    """All imports within a package, but for those that serve type checkers only."""
    modules = find_modules(package)
    found = []
    for name, file in modules.items():
        for node, lazy in _import_nodes(ast.parse(file.read_text(encoding="utf-8")), lazy=False):
            home = name if file.name == "__init__.py" else name.rpartition(".")[0]
            place = f"{file.relative_to(package.parent)}:{node.lineno}"
            found += [Import(name, target, place, lazy) for target in _targets(node, home, modules)]
    return found


def _import_nodes(node: ast.AST, *, lazy: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, lazy
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = node.orelse
    for child in children:
        yield from _import_nodes(child, lazy=lazy or isinstance(node, _FUNCTIONS))


def _targets(node: ast.Import | ast.ImportFrom, home: str, modules: Collection[str]) -> list[str]:
    """The modules a statement imports: with `from a import b` a.b, or a where b is something defined there."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        above = home.split(".")[: home.count(".") + 2 - node.level] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        inner = [f"{base}.{alias.name}" for alias in node.names]
        names = [name if name in modules else base for name in inner]
    return [name for name in dict.fromkeys(names) if name in modules]


def read_table(text: str) -> dict[str, set[str]]:
    """From the rooms of the Markdown table "room | concern | may import" to the rooms each may import."""
    allowed: dict[str, set[str]] = {}
    for line in text.partition("## Rooms")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and (room := re.fullmatch(r"`(\w+)`", cells[0])):
            above = set(allowed) if cells[2] == "all of the above" else set()
            allowed[room[1]] = above | set(re.findall(r"`(\w+)`", cells[2]))
    return allowed


def table_breaches(imports: Iterable[Import], allowed: dict[str, set[str]], package: Path) -> list[str]:
    """Imports that the table does not allow, and rooms it does not name."""
    found = []
    for item in imports:
        room, other = (_room(name, package) for name in (item.importer, item.imported))
        if other is None or room == other or item.importer in (package.name, f"{package.name}.__main__"):
            continue
        if room is None and not item.lazy:
            found.append(f"{item.place}: a root module imports the room {other}")
        elif room is not None and other not in allowed.get(room, ()):
            found.append(f"{item.place}: {room} may not import {other}")
    named = {_room(name, package) for name, file in find_modules(package).items() if file.stat().st_size}
    return found + [f"{room}: the table has no such row" for room in sorted(named - {None, *allowed}, key=str)]


def _room(module: str, package: Path) -> str | None:
    """The sub-package a module belongs to; None directly in the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (package / parts[1]).is_dir() else None


def room_circles(imports: Iterable[Import], package: Path) -> list[str]:
    """Circles between rooms, lazy imports included."""
    pairs = {(_room(item.importer, package), _room(item.imported, package)) for item in imports}
    return _circles((one, other) for one, other in pairs if one and other and one != other)


def module_circles(imports: Iterable[Import]) -> list[str]:
    """Circles between modules; lazy imports are a way out of them."""
    return _circles((item.importer, item.imported) for item in imports if not item.lazy)


def _circles(pairs: Iterable[tuple[str, str]]) -> list[str]:
    graph: dict[str, list[str]] = defaultdict(list)
    for one, other in sorted(set(pairs)):
        graph[one].append(other)
    found = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1][:0:-1]
            start = circle.index(min(circle))
            circle = circle[start:] + circle[: start + 1]
            found.append("circle: " + " → ".join(circle))
            graph[circle[0]].remove(circle[1])  # for the next one
        else:
            return found


def length_breaches(root: Path, folders: Iterable[str]) -> list[str]:
    """Modules, and functions with their docstring, that are too long."""
    found = []
    for file in (file for folder in folders for file in sorted((root / folder).rglob("*.py"))):
        text, name = file.read_text(encoding="utf-8"), file.relative_to(root)
        if (lines := len(text.splitlines())) > MAX_MODULE:
            found.append(f"{name}: {lines} lines, at most {MAX_MODULE}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, _FUNCTIONS):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION:
                    found.append(f"{name}:{node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION}")
    return found


def dead_links(root: Path, documents: Iterable[Path]) -> list[str]:
    """Relative links of Markdown files, and documents named in source files, that lead nowhere."""
    found = []
    for file in documents:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
            targets = {link: file.parent / link for link in links}
        else:
            targets = {link: root / link for link in re.findall(r"\bdocs/[\w/-]+\.md\b", text)}
        dead = [link for link, target in targets.items() if not target.exists()]
        found += [f"{file.relative_to(root)}: {link} does not exist" for link in dead]
    return found

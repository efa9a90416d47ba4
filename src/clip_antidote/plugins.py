"""What installed packages add by entry points; read from their metadata, without importing them."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

from clip_antidote.errors import PluginError

NAME = re.compile(r"\w[\w.-]{0,63}", re.ASCII)
"""What a plug-in may be called: it is typed as an option, and becomes part of a record's key."""

NAMELESS = "a package without a name"


@dataclass(frozen=True)
class Plugin:
    """One entry point of an installed package.

    Attributes:
        name: Its name, as users type it.
        kind: What it is, for messages ("defense").
        value: Where it is, "module:attribute".
        distribution: Name and version of the package that brings it.
        summary: The package's own line about itself; empty where it has none.
    """

    name: str
    kind: str
    value: str
    distribution: str
    summary: str = ""

    def __str__(self) -> str:
        return f"the {self.kind} '{self.name}' of the package {self.distribution}"

    def describe(self) -> str:
        """A line about it, which says where it comes from."""
        return f"{self.summary or self.value} (from {self.distribution})"

    def load(self) -> Any:
        """Imports it.

        Raises:
            PluginError: It cannot be imported.
        """
        module, _, attribute = self.value.partition(":")
        try:
            found: Any = import_module(module.strip())
            for part in filter(None, attribute.strip().split(".")):
                found = getattr(found, part)
        except (Exception, SystemExit) as error:  # a package of others can fail in any way
            raise PluginError(
                f"{self} cannot be loaded ({type(error).__name__}: {error}); update or uninstall the package"
            ) from error
        return found


@dataclass(frozen=True)
class Plugins:
    """What was found in one group of entry points.

    Attributes:
        known: Plug-ins by name.
        left_out: Why a plug-in is not among them, in a sentence, by its name or that of its package.
    """

    known: dict[str, Plugin]
    left_out: dict[str, str]


def find_plugins(kind: str, group: str, builtin: Collection[str]) -> Plugins:
    """Reads the entry points of a group from the metadata of all installed packages.

    Packages that cannot be read, and names that are taken or given twice, are left out with a sentence.

    Args:
        kind: What they are, for messages ("defense").
        group: Group of the entry points ("clip_antidote.defenses").
        builtin: Names that are taken.
    """
    known: dict[str, Plugin] = {}
    left_out: dict[str, str] = {}
    read: set[str | None] = set()
    for distribution in metadata.distributions():
        label = NAMELESS
        try:
            points = list(distribution.entry_points.select(group=group))
            if not points:
                continue
            name, label, summary = _facts(distribution)
            if name is not None and name in read:  # further down the path, where imports do not reach
                continue
            read |= {name} - {None}
            found = [Plugin(point.name, kind, point.value, label, summary) for point in points]
        except Exception as error:  # metadata of others can be broken in any way
            left_out[label] = f"the entry points of {label} cannot be read ({type(error).__name__}); reinstall it"
            continue
        for plugin in found:
            _add(plugin, known, left_out, builtin)
    return Plugins(known, left_out)


def _facts(distribution: metadata.Distribution) -> tuple[str | None, str, str]:
    """Name of a package for comparing, name and version for reading, and its line about itself."""
    name = version = summary = None
    with suppress(Exception):  # a folder without METADATA
        about = distribution.metadata
        name, version, summary = (about[key] for key in ("Name", "Version", "Summary"))
    label = " ".join(filter(None, (name, version))) or NAMELESS
    return re.sub(r"[-_.]+", "-", name).lower() if name else None, label, summary or ""


def _add(plugin: Plugin, known: dict[str, Plugin], left_out: dict[str, str], builtin: Collection[str]) -> None:
    if plugin.name in builtin:
        left_out[plugin.name] = f"{plugin} is left out: clip-antidote has one of that name; rename it there"
    elif not NAME.fullmatch(plugin.name):
        left_out[plugin.name] = f"{plugin} is left out: names have letters, digits, dots, dashes and underscores"
    elif plugin.name in left_out:
        return
    elif (first := known.pop(plugin.name, None)) is not None:
        left_out[plugin.name] = (
            f"the {plugin.kind} '{plugin.name}' is left out: the packages {first.distribution} and "
            f"{plugin.distribution} both have one; uninstall one of them"
        )
    else:
        known[plugin.name] = plugin

"""A lazy registry: one line names a class, its module is imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from clip_antidote.errors import UsageError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Maps names to classes, or functions, that are imported when asked for.

    Where the type of the entries is all that is needed, as in `Registry[type[Attack]]`, import it under TYPE_CHECKING
    and annotate: the listing of names stays free of what the entries need.

    Args:
        kind: What the entries are, for messages ("attack").
        entries: From name to "module:class" and a line of description.
    """

    def __init__(self, kind: str, entries: dict[str, tuple[str, str]]) -> None:
        self.kind = kind
        self.entries = entries

    def names(self) -> list[str]:
        """Returns the registered names."""
        return list(self.entries)

    def describe(self) -> dict[str, str]:
        """Returns a line about every entry."""
        return {name: text for name, (_, text) in self.entries.items()}

    def get(self, name: str) -> Entry:
        """Returns what is registered under `name`.

        Raises:
            UsageError: There is nothing.
        """
        if name not in self.entries:
            raise UsageError(f"there is no {self.kind} '{name}'; known are {', '.join(self.entries)}")
        module, _, attribute = self.entries[name][0].partition(":")
        entry: Entry = getattr(import_module(module), attribute)
        return entry


def lazy_names(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes a module's `__getattr__`: its public names are imported on first use.

    Args:
        module: Name of the module.
        homes: From every name to the module that has it.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        return getattr(import_module(homes[name]), name)

    return find

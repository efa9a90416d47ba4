"""A lazy registry: one line names a class, its module is imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from clip_antidote.errors import UsageError


class Registry:
    """Maps names to classes that are imported when asked for.

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

    def get(self, name: str) -> Any:
        """Returns the class registered under `name`.

        Raises:
            UsageError: There is none.
        """
        if name not in self.entries:
            raise UsageError(f"there is no {self.kind} '{name}'; known are {', '.join(self.entries)}")
        module, _, attribute = self.entries[name][0].partition(":")
        return getattr(import_module(module), attribute)

"""A lazy registry: one line names a class, its module is imported on first use; installed packages add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from clip_antidote.errors import PluginError, UsageError
from clip_antidote.plugins import Plugin, Plugins, find_plugins

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Maps names to classes, or functions, that are imported when asked for.

    Where the type of the entries is all that is needed, as in `Registry[type[Attack]]`, import it under TYPE_CHECKING
    and annotate: the listing of names stays free of what the entries need.

    Args:
        kind: What the entries are, for messages ("attack").
        entries: From name to "module:class" and a line of description.
        group: Group of entry points by which installed packages add entries; none where they cannot.
        base: "module:class" of what an added entry must be: derived from it, or one of it.
        needs: Attributes that the class of an added entry must have.
    """

    def __init__(
        self,
        kind: str,
        entries: dict[str, tuple[str, str]],
        *,
        group: str | None = None,
        base: str | None = None,
        needs: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.entries = kind, entries
        self.group, self.base, self.needs = group, base, needs

    def names(self) -> list[str]:
        """Returns the names of this package's own entries."""
        return list(self.entries)

    def plugins(self) -> Plugins:
        """Returns what installed packages add, without importing it."""
        return find_plugins(self.kind, self.group, self.entries) if self.group else Plugins({}, {})

    def describe(self) -> dict[str, str]:
        """Returns a line about every entry, those of installed packages last."""
        own = {name: text for name, (_, text) in self.entries.items()}
        return own | {name: plugin.describe() for name, plugin in self.plugins().known.items()}

    def get(self, name: str) -> Entry:
        """Returns what is registered under `name`.

        Raises:
            UsageError: There is nothing.
            PluginError: It belongs to an installed package and cannot be used.
        """
        if name in self.entries:
            entry: Entry = _resolve(self.entries[name][0])
            return entry
        plugins = self.plugins()
        if name in plugins.known:
            return self._checked(plugins.known[name])
        if name in plugins.left_out:
            raise PluginError(plugins.left_out[name])
        raise UsageError(f"there is no {self.kind} '{name}'; known are {', '.join([*self.entries, *plugins.known])}")

    def _checked(self, plugin: Plugin) -> Entry:
        """Loads a plug-in and sees that it is what the registry holds."""
        found: Any = plugin.load()
        if self.base is not None:
            base = _resolve(self.base)
            derived = isinstance(found, type) and issubclass(found, base)
            if not derived and not isinstance(found, base):
                raise PluginError(f"{plugin} cannot be used: {plugin.value} does not derive from {self.base}")
        missing = [key for key in self.needs if not hasattr(found, key)]
        if missing:
            raise PluginError(f"{plugin} cannot be used: {plugin.value} has no '{missing[0]}'; see docs/plugins.md")
        if "name" in self.needs and found.name != plugin.name:
            raise PluginError(f"{plugin} cannot be used: {plugin.value} calls itself '{found.name}'; name it alike")
        entry: Entry = found
        return entry


def _resolve(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


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

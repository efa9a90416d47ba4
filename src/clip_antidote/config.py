"""Bases of all settings and of all records: strict pydantic models; settings are read from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from clip_antidote.errors import UsageError

_MOST_VALUES, _DEEPEST = 100_000, 50


def _within_folder(name: str) -> str:
    if set("/\\\0") & set(name) or name in (".", ".."):
        raise ValueError(f"'{name:.60}' becomes part of a folder's name, so it cannot hold / or \\; rename it")
    return name


FolderPart = Annotated[str, AfterValidator(_within_folder)]
"""Text that becomes part of a file's or a folder's name, and must not lead elsewhere."""


class Config(BaseModel):
    """A set of named settings; unknown names and values out of range are refused.

    Attributes:
        later: Settings that came after results had been made without them, see `facts`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def build(cls, values: dict[str, Any]) -> Self:
        """Makes a configuration, with one sentence for the user where a value is wrong.

        A group of settings that is named in part keeps this configuration's defaults for the rest.

        Raises:
            UsageError: An unknown name or a value out of range.
        """
        _check_extent(values, cls.__name__)
        try:
            return cls(**cls._completed(values))
        except ValidationError as error:
            raise UsageError(f"{cls.__name__}: setting {first_problem(error)}") from error

    @classmethod
    def _completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        out = dict(values)
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if isinstance(value, dict) and field is not None and isinstance(field.default, Config):
                default = {key: getattr(field.default, key) for key in type(field.default).model_fields}
                out[name] = {**default, **type(field.default)._completed(value)}
        return out

    def facts(self) -> dict[str, Any]:
        """All settings, ready for JSON: for records, and for keys by which a result is found again.

        A setting that came later is left out at its default, so keys of what was made before stay as they were.
        """
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.later and value == field.default:
                del values[name]
            elif isinstance(value, Config):
                values[name] = value.facts()
        return values

    def to_yaml(self) -> str:
        """Returns the settings as YAML, in their order of definition."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def first_problem(error: ValidationError) -> str:
    """The first of what is wrong, in a few words: where, and what."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"'{where}': {first['msg']}"


class Record(BaseModel):
    """What is known about a result, typed: kept in files and read back; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def merge_settings(file: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Reads settings and lets the values that were given win; None means not given.

    Raises:
        UsageError: The file cannot be read.
    """
    settings = read_yaml(file) if file is not None else {}
    settings.update({key: value for key, value in overrides.items() if value is not None})
    return settings


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        UsageError: The file is missing, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        # yaml lets the errors of dates, numbers and tags through that it cannot make
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path} is not valid YAML: {reason}") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply for a file of settings") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of settings, not a {type(values).__name__}")
    _check_extent(values, str(path))
    return values


def _check_extent(values: dict[Any, Any], where: str) -> None:
    """Refuses settings that are no tree of named values of a sensible size, such as YAML's aliases can make.

    Raises:
        UsageError: A name is no text, a number has more than 63 bits, or there is too much.
    """
    count = 0
    level: list[Any] = [values]
    for _ in range(_DEEPEST):
        count += len(level)
        if count > _MOST_VALUES:
            break
        odd = next(
            (name for value in level if isinstance(value, dict) for name in value if not isinstance(name, str)), ""
        )
        if odd != "":
            raise UsageError(f"{where}: the name of a setting must be a text, not {odd!r:.60}")
        if any(isinstance(value, int) and abs(value) >= 2**63 for value in level):
            raise UsageError(f"{where}: a number of a setting is too large; at most 63 bits are possible")
        level = [inner for value in level for inner in _inner(value)]
        if not level:
            return
    raise UsageError(f"{where} holds too many settings or nests them too deeply")


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []

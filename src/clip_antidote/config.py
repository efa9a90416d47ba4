"""Bases of all settings and of all records: strict pydantic models; settings are read from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from clip_antidote.errors import UsageError


class Config(BaseModel):
    """A set of named settings; unknown names and values out of range are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def build(cls, values: dict[str, Any]) -> Self:
        """Makes a configuration, with one sentence for the user where a value is wrong.

        A group of settings that is named in part keeps this configuration's defaults for the rest.

        Raises:
            UsageError: An unknown name or a value out of range.
        """
        try:
            return cls(**cls._completed(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{cls.__name__}: setting '{where}': {first['msg']}") from error

    @classmethod
    def _completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        out = dict(values)
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if isinstance(value, dict) and field is not None and isinstance(field.default, Config):
                default = {key: getattr(field.default, key) for key in type(field.default).model_fields}
                out[name] = {**default, **type(field.default)._completed(value)}
        return out

    def to_yaml(self) -> str:
        """Returns the settings as YAML, in their order of definition."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


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
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of settings, not a {type(values).__name__}")
    return values

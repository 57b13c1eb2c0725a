"""A resolved configuration, or a section of it, as plain data, as YAML, and as a hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdreamer.settings.fields import hints
from fastdreamer.system.files import write_atomic
from fastdreamer.system.yaml_text import dump_yaml

RESOLVED = "# resolved configuration"


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration, or one section of it, as plain dicts, lists, strings and numbers."""
    schema: Any = type(config)
    types = hints(schema)
    return {field.name: _plain(getattr(config, field.name), types[field.name]) for field in dataclasses.fields(config)}


def dump_config(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML, with its hash in the first line; `load_config` reads it back."""
    write_atomic(Path(path), config_text(config).encode())


def config_text(config: Any) -> str:
    """What `dump_config` writes."""
    return f"{RESOLVED} {config_hash(config)}\n{dump_yaml(to_dict(config))}"


def config_hash(config: Any) -> str:
    """16 hex characters over the canonical JSON of a configuration or of one section."""
    canonical = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted paths at which two configurations differ, each with both values."""
    left, right = _flatten(to_dict(first)), _flatten(to_dict(second))
    return {path: (left[path], right[path]) for path in left if left[path] != right[path]}


def _plain(value: Any, expected: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return list(value)
    # 20 and 20.0 are one setting and must give one hash
    return float(value) if expected is float and type(value) is int else value


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat

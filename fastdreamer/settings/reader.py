"""Reading settings: YAML presets and files, dotted overrides, checks of names, types and bounds.

PyYAML is imported only where YAML is read or written: without YAML files the configuration needs torch alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fastdreamer.errors import UserError
from fastdreamer.settings.fields import BOUNDS, hints
from fastdreamer.settings.resolved import RESOLVED, to_dict
from fastdreamer.system.files import expanded, find_beside
from fastdreamer.system.yaml_text import parse_yaml, read_yaml

T = TypeVar("T")

LONGEST = 60  # characters of a value in an error
EXACT = 2**53  # up to here every whole number is a floating one
NO_TEXT = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # the gap between is bytes of names that are not UTF-8
YES, NO = ("yes", "on"), ("no", "off")


def read_settings(schema: type[T], name_or_path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Settings of `schema` from a preset (`crafter`) or a YAML file, with overrides such as `phase1.steps=100` on top.

    A file may say `base: NAME_OR_PATH` to start from another one; a path there is relative to the file.

    Raises:
        UserError: for a missing or broken file, an unknown key, a wrong type, or a value out of bounds.
    """
    tree = _read_tree(_locate(str(name_or_path), Path()), seen=())
    for override in overrides:
        _apply_override(tree, override, schema)
    return typing.cast(T, _build(schema, tree, prefix=""))


def validate(config: T) -> T:
    """Check a configuration that was built in code as strictly as one that was read; returns it."""
    return typing.cast(T, _build(type(config), to_dict(config), prefix=""))


def presets() -> dict[str, Path]:
    """The presets that ship with the package, by name."""
    package = Path(__file__).resolve().parents[1]
    shipped, checkout = package / "configs", package.parent / "configs"  # in a wheel, and in an editable install
    return {path.stem: path for path in sorted((shipped if shipped.is_dir() else checkout).glob("*.yaml"))}


def _locate(name_or_path: str, folder: Path) -> Path:
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        path = folder / expanded(name_or_path)
        if not path.is_file():
            raise UserError(f"configuration file {path} does not exist")
        return path
    known = presets()
    if name_or_path not in known:
        raise UserError(
            f"unknown configuration {name_or_path!r}{_nearest(name_or_path, list(known))}: "
            f"name a preset ({', '.join(known)}) or a .yaml file"
        )
    return known[name_or_path]


def _read_tree(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: its `base` leads back to itself")
    text = read_yaml(path)
    tree = parse_yaml(text, str(path))
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as `phase1:`, found {_describe(tree)}")
    if not text.startswith(RESOLVED) and path not in presets().values():
        find_beside(tree, path.parent)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base must be the name of a preset or a .yaml file, not {_describe(base)}")
    return _merge(_read_tree(_locate(base, path.parent), (*seen, path.resolve())), tree)


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, dict) and (value is None or isinstance(value, dict)):
            merged[key] = _merge(below, value or {})  # a section all of whose lines are comments changes nothing
        else:
            merged[key] = value
    return merged


def _apply_override(tree: dict[str, Any], override: str, schema: type) -> None:
    path, separator, text = override.partition("=")
    path = path.strip()
    if not separator or not path:
        raise UserError(f"override {override!r} is not of the form section.key=value")
    expected: Any = schema
    keys = path.split(".")
    for depth, key in enumerate(keys):
        _check_known(expected, key, ".".join(keys[:depth]))
        expected = hints(expected)[key]
        if depth < len(keys) - 1:
            if not dataclasses.is_dataclass(expected):
                raise UserError(f"{'.'.join(keys[: depth + 1])} is a value, not a section, in override {override!r}")
            node = tree.get(key)
            tree[key] = dict(node) if isinstance(node, dict) else {}
            tree = tree[key]
    if expected is str and not text.strip().startswith(("'", '"')):
        value: Any = text.strip()  # data.store=2024 and data.store= mean the text as typed
    else:
        value = parse_yaml(text, f"override {override!r}")
    tree[keys[-1]] = _merge(tree, {keys[-1]: value})[keys[-1]]


def _check_known(schema: Any, key: Any, prefix: str) -> None:
    names = [field.name for field in dataclasses.fields(schema)]
    if key not in names:
        path = f"{prefix}.{key}" if prefix else str(key)
        raise UserError(f"unknown setting {path}{_nearest(str(key), names, prefix)}")


def _nearest(word: str, words: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word[:LONGEST], words, n=1, cutoff=0.5)
    return f"; did you mean {prefix + '.' if prefix else ''}{close[0]}?" if close else ""


def _build(schema: type, tree: Any, prefix: str) -> Any:
    """Check every value first and construct after it, so that __post_init__ never meets a zero divisor."""
    if not isinstance(tree, Mapping):
        raise UserError(f"{prefix} is a section: expected `key: value` lines, found {_describe(tree)}")
    for key in tree:
        _check_known(schema, key, prefix)
    types, arguments = hints(schema), {}
    for field in dataclasses.fields(schema):
        if field.name not in tree:
            continue
        path = f"{prefix}.{field.name}" if prefix else field.name
        expected, value = types[field.name], tree[field.name]
        if dataclasses.is_dataclass(expected):
            arguments[field.name] = _build(typing.cast(type, expected), {} if value is None else value, path)
        else:
            checked = _check_type(value, expected, path, field.metadata.get("choices", ()))
            arguments[field.name] = _check_bounds(checked, field.metadata, path)
    try:
        return schema(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{prefix}: {error}" if prefix else str(error)) from error


def _check_type(value: Any, expected: Any, path: str, choices: Sequence[Any] = ()) -> Any:
    if typing.get_origin(expected) is tuple:
        if not isinstance(value, list | tuple):
            hint = f": write [{str(value).strip('()')}]" if value is not None and not isinstance(value, dict) else ""
            raise UserError(f"{path} must be a list, found {_describe(value)}{hint if len(hint) < LONGEST else ''}")
        (item, *_) = typing.get_args(expected)
        return tuple(_check_type(entry, item, f"{path}[{i}]") for i, entry in enumerate(value))
    if expected is float and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if expected is int and type(value) is float and value.is_integer() and abs(value) <= EXACT:
        return int(value)  # 1e4
    if expected is bool and isinstance(value, str) and value.lower() in YES + NO:
        return value.lower() in YES
    if type(value) is not expected:
        kinds = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
        wanted = f"one of {', '.join(map(str, choices))}" if choices else kinds[expected]
        raise UserError(f"{path} must be {wanted}, found {_describe(value)}")
    if expected is float and not math.isfinite(value):
        raise UserError(f"{path} is {value}; it must be a finite number")
    if expected is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{path} is {_describe(value)}; it must be a number that 64 bits hold")
    if expected is str and (found := NO_TEXT.search(value)):
        kind = "NUL character" if found[0] == "\0" else "half of a character (a lone surrogate)"
        raise UserError(f"{path} is {_describe(value)}; a text holds no {kind}")
    return value


def _check_bounds(value: Any, metadata: Mapping[str, Any], path: str) -> Any:
    for name, (words, holds) in BOUNDS.items():
        if name in metadata and not holds(value, bound := metadata[name]):
            shown = ", ".join(map(str, bound)) if name == "choices" else bound
            close = _nearest(value, bound) if name == "choices" and isinstance(value, str) else ""
            raise UserError(f"{path} is {value!r}; it must be {words} {shown}{close}")
    return value


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    shown = repr(value)
    return f"{shown if len(shown) <= LONGEST else f'{shown[:LONGEST]}...'} ({type(value).__name__})"

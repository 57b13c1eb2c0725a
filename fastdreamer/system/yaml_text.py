"""YAML as our settings read and write it; PyYAML is imported on first use: torch alone is enough without YAML files.

The plain words are YAML 1.2's: `off` and `12:30` are texts, 010 is ten. YAML 1.1, which PyYAML reads, makes false, 750
and 8 of them.
"""

from __future__ import annotations

import codecs
import re
from functools import cache
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError

MOST_NODES = 10_000  # values, those behind an alias counted wherever they are used
MOST_DIGITS = 400
FIRST = list("-+.0123456789")
WORDS: tuple[tuple[str, re.Pattern[str], list[str] | None], ...] = (
    ("null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?(0b[01]+|0o[0-7]+|0x[0-9a-fA-F]+|[0-9][0-9_]*)$"), FIRST),
    ("float", re.compile(r"^[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"), FIRST),
    ("float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"), FIRST),
    ("merge", re.compile(r"^<<$"), ["<"]),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value in a YAML text: mappings, lists, texts, numbers, true, false and null; `where` names it in errors.

    Raises:
        UserError: if it is no YAML, in one line with the line number.
    """
    import yaml

    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None and where.endswith((".yaml", ".yml")) else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from error
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: it is nested too deeply") from None
    except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:  # of a tag that does not fit
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())[:200]}") from error


def read_yaml(path: Path) -> str:
    """A YAML file's text: UTF-8 or UTF-16, which says so in its first bytes.

    Raises:
        UserError: if it cannot be read, or is in neither.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): let this account read it") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: it cannot be read as UTF-8: save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def dump_yaml(tree: Any) -> str:
    """YAML that `parse_yaml` and YAML 1.1 read back alike."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    for kind, words, first in WORDS:
        Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", words, first)
    return str(yaml.dump(tree, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120))


@cache
def _loader() -> Any:
    """A safe YAML loader of the plain types alone, which refuses a key that is given twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key_node, _ in node.value:
                key = str(key_node.value)
                if key in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key} is given twice", problem_mark=key_node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

        def construct_integer(self, node: Any) -> int:
            digits = self.construct_scalar(node).replace("_", "")
            if len(digits) > MOST_DIGITS:
                raise yaml.MarkedYAMLError(problem=f"a number of {len(digits)} digits", problem_mark=node.start_mark)
            bare = digits.lstrip("+-")
            value = int(bare, 0) if bare[:2] in ("0b", "0o", "0x") else int(bare)
            return -value if digits.startswith("-") else value

    plain = [f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "float", "str", "seq", "map")]
    known = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in (None, *plain)}
    setattr(Loader, "yaml_constructors", known)  # noqa: B010 - a date, a set or bytes are no setting
    setattr(Loader, "yaml_implicit_resolvers", {})  # noqa: B010
    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_integer)
    for kind, words, first in WORDS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", words, first)
    return Loader


def _measure(root: Any) -> None:
    """Refuse a tree that holds itself, or grows beyond all bounds where its aliases are put in."""
    import yaml

    count, above = 0, set[int]()

    def visit(node: Any) -> None:
        nonlocal count
        count += 1
        if count > MOST_NODES or id(node) in above:
            problem = "an alias leads back into itself" if id(node) in above else f"more than {MOST_NODES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return
        above.add(id(node))
        for entry in node.value:
            for part in entry if isinstance(entry, tuple) else (entry,):
                visit(part)
        above.discard(id(node))

    visit(root)

"""YAML as our settings read it; PyYAML is imported on first use, so that torch alone is enough without YAML files."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastdreamer.errors import UserError


def parse_yaml(text: str, where: str) -> Any:
    """The value in a YAML text; `where` (a file's path, or words) names it in errors.

    Raises:
        UserError: if it is no YAML, in one line with the line number.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None and where.endswith((".yaml", ".yml")) else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from error


@cache
def _loader() -> Any:
    """A safe YAML loader that reads 3e-4 as a number (YAML 1.1 calls it a text) and refuses a key given twice."""
    import re

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

    number = re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$|^[-+]?\.\d+[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader

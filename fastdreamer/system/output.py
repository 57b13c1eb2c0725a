"""What commands print: numbers one a line, tables, and the one line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fastdreamer.system.terminal import name as shown_name


def show(result: Mapping[str, Any]) -> dict[str, Any]:
    """Print numbers one a line, nested ones under dotted names; returns them."""
    lines = {shown_name(key): shown_name(text) for key, text in _lines(result)}
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")
    return dict(result)


def show_evaluation(summary: Mapping[str, Any]) -> None:
    """Print the table of policies, and seconds a stage where they are known."""
    evaluation = summary.get("eval", {})
    for note in evaluation.get("notes", []):
        print(f"note: {note}")
    for task, entry in (evaluation.get("tasks") or {evaluation.get("task", ""): evaluation}).items():
        print(f"{'policy':<16}{'return':>8}   {'95 % interval':<16}{'episodes':>8}{f'   task {task}' if task else ''}")
        for name, row in entry.get("policies", {}).items():
            interval = f"{row['return_low']:.2f} to {row['return_high']:.2f}"
            print(f"{name:<16}{row['return_mean']:>8.2f}   {interval:<16}{row['episodes']:>8}")
        _show_calibration(entry.get("reward_calibration", {}))
    _show_world_model(summary.get("world_model", {}))
    if summary.get("seconds"):
        show({"seconds": summary["seconds"]})


def _show_calibration(calibration: Mapping[str, Any]) -> None:
    """Predicted beside paid reward."""
    if calibration:
        print(f"{'reward of play':<16}{'predicted':>10}{'paid':>8}{'ratio':>8}   (an episode)")
    for name, row in calibration.items():
        ratio = "-" if row["ratio"] is None or row["ratio"]["mean"] is None else f"{row['ratio']['mean']:.2f}"
        print(f"{name:<16}{row['predicted']['mean']:>10.2f}{row['paid']['mean']:>8.2f}{ratio:>8}")


def _show_world_model(world_model: Mapping[str, Any]) -> None:
    """One sample beside copying, imagined beside real reward."""
    if "one_step" in world_model:
        step, over = world_model["one_step"], world_model["one_sample_over_copy"]
        won = sum(ratio["mean"] < 1 for ratio in over)
        line = (
            f"one sample: {step['over_copy']['mean']:.2f} of copying's error at the first step, below it at {won} of "
        )
        found = (world_model.get("reward_correlation") or {}).get("imagined_against_real")
        reward = f"; imagined against real reward: correlation {found['mean']:.2f}" if found else ""
        print(f"{line}{len(over)} horizons{reward}")


def show_engines(result: Mapping[str, Any]) -> None:
    """Print a row an engine: what it is for, its size, and how it compares with eager."""
    print(f"{'part':<8} {'backend':<14} {'target':<20} {'prec':<5} {'MB':>6} {'build s':>8} {'error':>8}  ms a clip")
    for row in result["engines"]:
        times = ", ".join(f"{shape} {ms:g}" for shape, ms in row["ms"].items()) or row["status"]
        eager = f" (eager fp32 {row['eager_ms_per_clip']:g})" if row["eager_ms_per_clip"] else ""
        print(
            f"{row['part']:<8} {row['backend']:<14} {row['target']:<20} {row['precision']:<5} "
            f"{row['bytes'] / 1e6:>6.0f} {row['seconds']:>8.1f} {row['relative_error']:>8.1e}  {times}{eager}"
            f"{', kept' if row['kept'] else ''}"
        )
    for name, reason in result["refused"].items():
        print(f"REFUSED {name}: {reason}")
    print(f"{result['root']}, {result['seconds']} s")


def show_profile(result: Mapping[str, Any]) -> None:
    """Print the numbers, then every list of rows as a table, then the files."""
    tables = {name: rows for name, rows in result.items() if isinstance(rows, list) and rows}
    plain = {name: value for name, value in result.items() if name not in (*tables, "files") and value != []}
    show(plain)
    for name, rows in tables.items():
        columns = list(rows[0])
        cells = [[str(column) for column in columns], *([_cell(key, row[key]) for key in columns] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        aligned = ["<" if isinstance(rows[0][column], str) else ">" for column in columns]
        print(f"\n{name.replace('_', ' ')}")
        for row in cells:
            line = "  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(row, aligned, widths, strict=True))
            print(f"  {line.rstrip()}")
    print()
    for what, file in result.get("files", {}).items():
        print(f"{what}: {file}")


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if column == "share" else f"{value:,.2f}"
    return shown_name(str(value))


def to_json(result: Mapping[str, Any]) -> str:
    """One line of strict JSON: what is not a finite number becomes null, paths become text."""
    return json.dumps(_strict(result), allow_nan=False)


def _strict(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy or torch scalar
        value = value.item()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_strict(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _lines(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in result.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield f"{prefix}{key}", f"{value:.5g}"
        elif isinstance(value, list | tuple) and len(value) > 6:
            yield f"{prefix}{key}", f"{len(value)} values"
        else:
            yield f"{prefix}{key}", str(value)

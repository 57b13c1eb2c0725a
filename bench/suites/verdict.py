"""Lines that say whether what was promised holds; they change no exit code."""

from __future__ import annotations


def at_least(name: str, value: float, least: float, error: float = 0.0) -> str:
    """A promise that `value` is at least `least`; its standard error is shown, and excuses nothing."""
    return f"{'holds' if value >= least else 'FAILS'}: {name} {_shown(value, error)}, at least {least:g}"


def at_most(name: str, value: float, most: float, error: float = 0.0) -> str:
    """A promise that `value` is at most `most`, within two standard errors of the measurement."""
    return f"{'holds' if value - 2 * error <= most else 'FAILS'}: {name} {_shown(value, error)}, at most {most:g}"


def _shown(value: float, error: float) -> str:
    return f"{value:.3g} +- {error:.2g}" if error else f"{value:.3g}"

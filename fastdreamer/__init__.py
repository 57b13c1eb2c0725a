"""Dreamer 4-style agents from recordings of play, trained fast on one consumer card (or, smaller, on a CPU)."""

__version__ = "0.1.0"

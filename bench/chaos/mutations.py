"""Damaged inputs of users: read, or refused in one line; never another exception, a crash or a hang."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.chaos.children import Child, each
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import write_recordings
from fastdreamer.config import load_config
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.settings import presets, to_dict

NUMBERS = (b"0", b"-1", b"1e400", b"nan", b"-inf", b"99999999999999999999", b"0x_", b"1e4", b"9" * 5000, b"null")
TOKENS = (
    "{", "}", "[", "]", ":", ",", "&a", "*a", "!!python/object:os.system", "!!set", "!!binary x", "2001-01-01", "~",
    "~nosuchuser/x",
    "on", "off", "0x_", "010", "12:30", "1e4", "1_000", ".nan", "-.inf", "'", '"', "\n", "\t", "#", "|",
    ">", "%", "@", "`", "---", "...", "<<", "=", "\x00", "\x1b[2J", "\ud800", "\u2028", "\u00e9", "[" * 400, "9" * 5000,
    "&a [*a]", "&b [&c [1, 1], *c, *c]", "- ", "? ", "!", "null", "true", "-1", "0", "1e400", "None", "..", "/",
)  # fmt: skip
WRONG: tuple[Any, ...] = (
    None, [], {}, "x", -1, 1e308, float("nan"), 10**30, True, [[]], {"a": 1}, "\ud800", [None, "k"],
)  # fmt: skip
FRAMES = 6  # length of a clip: few, so that many are read
READ = "read"


@dataclass(frozen=True)
class Input:
    """A kind of input: what is well, how it is changed, and who reads it."""

    name: str
    sound: bytes
    mutate: Callable[[random.Random, bytes], bytes]
    read: Callable[[bytes], Any]


def mutations(given: Input, count: int, clock: Clock, seed: int) -> Row:
    """`count` changed inputs, each made from its number alone."""

    def read(number: int) -> str:
        chance = random.Random(f"{seed}:{given.name}:{number}")
        try:
            given.read(given.mutate(chance, given.sound))
        except UserError as error:
            return "" if "\n" not in str(error) else f"a refusal of several lines: {error}"
        return READ

    said = each(range(count), read, clock.ends_at)
    failures = [text for text in said if text not in ("", READ)]
    note = f"{said.count(''):,} refused, {said.count(READ):,} read"
    return Row("changed input", given.name, len(said), failures, note)


def binary(chance: random.Random, data: bytes) -> bytes:
    """A few bytes changed, a piece cut out, doubled, filled, moved or cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place = chance.randrange(len(changed))
        size = min(chance.choice((1, 4, 16, 200)), len(changed) - place)
        piece = changed[place : place + size]
        how = chance.randrange(7)
        if how < 2:
            changed[place] = chance.randrange(256)
        elif how == 2:
            changed[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        elif how == 3 and len(changed) > size:
            del changed[place : place + size]
        elif how == 4:
            changed[place:place] = piece
        elif how == 5:
            changed[place : place + size] = chance.randbytes(size)
        else:
            del changed[max(1, place) :]
    return bytes(changed)


def lines(chance: random.Random, data: bytes) -> bytes:
    """JSON lines with values exchanged, lines lost, doubled or broken, or bytes changed."""
    if chance.random() < 0.4:
        return binary(chance, data)
    rows = data.split(b"\n")
    place = chance.randrange(len(rows) - 1)
    how = chance.randrange(4)
    if how == 0:
        value = json.loads(rows[place])
        keys = [(value, key) for key in value]
        keys += [(entry, key) for entry in value.values() if isinstance(entry, dict) for key in entry]
        container, key = chance.choice(keys)
        container[key] = chance.choice(WRONG)
        rows[place] = json.dumps(value).encode()
    elif how == 1:
        del rows[place]
    elif how == 2:
        rows[place] = chance.choice((b"", b"[]", b"null", b"1", b"[" * 50_000, b"\xff", rows[place][:-3], *NUMBERS))
    else:
        rows.insert(place, rows[chance.randrange(len(rows) - 1)])
    return b"\n".join(rows)


def words(chance: random.Random, data: bytes) -> bytes:
    """Text with tokens of YAML put in, words replaced, and pieces cut out."""
    text = data.decode()
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = chance.randrange(len(text))
        how = chance.randrange(4)
        token = chance.choice(TOKENS)
        if how == 0:
            text = text[:place] + token + text[place:]
        elif how == 1:
            end = text.find("\n", place)
            text = text[:place] + token + text[end if end >= 0 else len(text) :]
        elif how == 2 and ": " in text:
            spots = [i for i in range(len(text)) if text.startswith(": ", i)]
            spot = chance.choice(spots) + 2
            stop = min(
                i for i in (text.find("\n", spot), text.find(",", spot), text.find("}", spot), 1 << 30) if i >= 0
            )
            text = text[:spot] + token + text[stop:]
        else:
            text = text[:place] + text[place + chance.randrange(1, 20) :]
        text = text or "x"
    return text.encode("utf-8", "surrogatepass")


def overrides(chance: random.Random, data: bytes) -> bytes:
    """A setting of the configuration with a value of some other kind, or a broken name."""
    name, value = chance.choice(data.decode().split("\n")).split("=", 1)
    if chance.random() < 0.8:
        value = chance.choice((*TOKENS, value + chance.choice(TOKENS), f"[{value}, {chance.choice(TOKENS)}]"))
    if chance.random() < 0.2:
        name = chance.choice((name.upper(), name + ".x", name.split(".")[0], "." + name, name[1:], "", "a.b.c", "_"))
    return f"{name}={value}".encode("utf-8", "surrogatepass")


def inputs(folder: Path) -> Iterator[Input]:
    """Inputs of every kind."""
    made = Child(lambda: write_recordings(folder / "sound", 1, FRAMES)).end()
    if made.code:
        raise RuntimeError(made.text)
    (source,) = (folder / "sound" / "Crafter-expert").iterdir()
    clip, pair = folder / "clip" / "a.mp4", folder / "pair" / "a"
    own = folder / "own" / "Crafter-expert" / source.name
    for path in (clip.parent, pair.parent, own):
        path.mkdir(parents=True)
    for name in ("metadata.json", "recording.mp4", "rendered.npz"):
        (own / name).write_bytes((source / name).read_bytes())
    video = (source / "recording.mp4").read_bytes()
    clip.write_bytes(video)
    pair.with_suffix(".mp4").write_bytes(video)
    yield Input("mp4", video, binary, lambda data: _recordings(clip, data, "crafter"))
    npz = (source / "rendered.npz").read_bytes()
    yield Input("npz", npz, binary, lambda data: _recordings(own / "rendered.npz", data, "crafter"))
    (own / "rendered.npz").write_bytes(npz)
    metadata = (source / "metadata.json").read_bytes().replace(b"\n", b" ") + b"\n"
    yield Input("metadata", metadata, lines, lambda data: _recordings(own / "metadata.json", data, "crafter"))
    own_lines = "".join(_line(number) + "\n" for number in range(FRAMES)).encode()
    yield Input("jsonl", own_lines, lines, lambda data: _recordings(pair.with_suffix(".jsonl"), data, "vpt"))
    yield Input("YAML", presets()["debug"].read_bytes(), words, lambda data: _config(folder / "c.yaml", data))
    yield Input("override", _settings(), overrides, _override)


def _line(number: int) -> str:
    mouse = {"x": 0, "y": 0, "dx": number % 7 - 3, "dy": 0, "buttons": [0] if number % 3 else [], "newButtons": []}
    held = {"keys": ["key.keyboard.w"] if number % 2 else []}
    times = {"isGuiOpen": False, "hotbar": 0, "tick": number, "milli": 50 * number}
    return json.dumps({"mouse": mouse, "keyboard": held} | times)


def _recordings(file: Path, data: bytes, space: str) -> None:
    """Read recordings as `encode` does: found, then decoded against their labels."""
    file.write_bytes(data)
    root = file.parent.parent.parent if file.name in ("rendered.npz", "metadata.json") else file.parent
    for recording in find_recordings(root):
        found = read_recording(recording, action_space(space), size=64)
        assert len(found.frames) == len(found.valid) and (found.rewards == found.rewards).all(), "not finite"


def _settings() -> bytes:
    """Every setting, name=value, a line each."""
    found = []
    for section, value in to_dict(load_config("debug")).items():
        own = value.items() if isinstance(value, dict) else [("", value)]
        found += [f"{section}.{name}={json.dumps(entry)}".replace(".=", "=") for name, entry in own]
    return "\n".join(found).encode()


def _config(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    load_config(path)


def _override(data: bytes) -> None:
    load_config("debug", [data.decode("utf-8", "surrogatepass")])

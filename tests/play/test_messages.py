"""What a page may send is read whole or refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastdreamer.play.messages import MOST_BYTES, Act, Choose, Hello, Hold, Refused, Start, pack, parse, text, unpack


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"type": "hello", "session": None}, Hello(None)),
        ({"type": "hello"}, Hello(None)),
        ({"type": "act", "n": 3, "action": [5]}, Act(3, (5,))),
        ({"type": "hold", "action": None}, Hold(None)),
        ({"type": "set", "who": "you", "speed": 10}, Choose(who="you", speed=10.0)),
        ({"type": "set", "greedy": False, "who": None}, Choose(greedy=False)),
        ({"type": "start", "recording": 1, "step": 4}, Start(None, 1, 4)),
    ],
)
def test_good_messages_are_read(sent, message):
    assert parse(json.dumps(sent)) == message


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        ("{", "not JSON"),
        ("[" * 900, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[]", "no".join(["a message is ", "t a JSON object"])),
        ('{"type": 3}', "none of the types"),
        ('{"type": ["act"]}', "none of the types"),
        ('{"action": [1]}', "none of the types"),
        ('{"type": "open"}', "none of the types"),
        ('{"type": "act", "n": 1}', "act needs action"),
        ('{"type": "act", "n": 1, "action": [256]}', "action of act must be a whole number from 0 to 255"),
        ('{"type": "act", "n": true, "action": [1]}', "n of act must be a whole number"),
        ('{"type": "act", "n": 1e3, "action": [1]}', "n of act must be a whole number"),
        ('{"type": "act", "n": -1, "action": [1]}', "n of act must be a whole number"),
        ('{"type": "act", "n": 1, "action": {"0": 1}}', "action of act must be a list"),
        ('{"type": "set", "speed": NaN}', "speed of set must be a number from 0 to 60"),
        ('{"type": "set", "speed": 1e99}', "speed of set must be a number from 0 to 60"),
        ('{"type": "set", "speed": true}', "speed of set must be a number from 0 to 60"),
        ('{"type": "set", "who": ""}', "who of set must be a text"),
        ('{"type": "set", "__class__": 1}', "set has no '__class__'"),
        ('{"type": "single", "\\u001b[2J": 1}', "single has no"),
        ('{"type": "start", "seed": 1, "recording": 1}', "start takes a seed or a recording, not both"),
        ('{"type": "start", "recording": "../../etc/passwd"}', "recording of start must be a whole number"),
        ('{"type": "start", "seed": 99999999999999999999}', "seed of start must be a whole number"),
        (json.dumps({"type": "hello", "session": "x" * 2000}), f"at most {MOST_BYTES}"),
        (json.dumps({"type": "hello", "session": "x" * 65}), "session of hello must be a text"),
    ],
)
def test_whatever_is_wrong_is_said_in_one_line(sent, line):
    with pytest.raises(Refused) as refused:
        parse(sent)
    said = str(refused.value)
    assert line in said and said.isprintable() and len(said) < 200


def test_the_limit_is_of_bytes():
    fits = json.dumps({"type": "single"}).ljust(MOST_BYTES)
    parse(fits)
    with pytest.raises(Refused, match=f"{MOST_BYTES + 1} bytes"):
        parse(fits + " ")
    with pytest.raises(Refused, match="bytes"):
        parse('{"type": "set", "who": "' + "\u00e9" * 600 + '"}')


def test_a_packed_view_is_read_back():
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    head, raw = unpack(pack({"step": np.int64(3), "value": float("nan")}, [frames[:, ::-1], frames]))
    assert head == {"step": 3, "value": None}
    assert raw == frames[:, ::-1].tobytes() + frames.tobytes()
    assert json.loads(text("error", line="so")) == {"type": "error", "line": "so"}

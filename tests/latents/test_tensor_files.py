"""Safetensors files read in parts: what safetensors itself reads, and nothing beyond the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from fastdreamer.latents import tensor_files
from fastdreamer.latents.tensor_files import TensorFile, identity_of, tensors_of

TENSORS = {
    "half": torch.randn(7, 2, 3).half(), "floats": torch.randn(5), "doubles": torch.randn(2, 2).double(),
    "bits": torch.tensor([True, False, True]), "bytes": torch.arange(11).byte(), "none": torch.zeros(0, 4),
    "int8": torch.arange(-3, 3).to(torch.int8), "int16": torch.arange(4).short(), "int32": torch.arange(4).int(),
    "int64": torch.arange(4), "few": torch.zeros(4, 0).byte(),
}  # fmt: skip


def written(path: Path, data: bytes | None = None) -> TensorFile:
    path.write_bytes(save(TENSORS, {"made": "here"}) if data is None else data)
    return TensorFile(str(path), identity_of(path.stat()))


def test_it_reads_what_safetensors_reads(tmp_path: Path) -> None:
    data = save(TENSORS, {"made": "here"})
    file, known, whole = written(tmp_path / "x"), load(data), tensors_of(data)
    assert whole.keys() == known.keys()
    for name, tensor in known.items():
        (found,) = file.read((name,))
        for one in (found, whole[name]):
            assert one.dtype == tensor.dtype and torch.equal(one, tensor), name
        for rows in (slice(1, 3), slice(2, 2), slice(0, 99), slice(90, 99)):
            assert torch.equal(file.read((name,), rows)[0], tensor[rows]), (name, rows)


def test_a_long_header_is_read_too(tmp_path: Path) -> None:
    many = {f"tensor-{number:04d}": torch.tensor([number]) for number in range(300)}
    file = written(tmp_path / "x", save(many))
    assert [int(found) for found in file.read(many)] == list(range(300))


def test_a_part_costs_its_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "x", save({"latents": torch.zeros(10_000, 16, 16).half()}))
    read: list[int] = []
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda h, n, o: read.append(len(got := pread(h, n, o))) or got)
    monkeypatch.setattr(os, "preadv", lambda h, b, o: read.append(got := preadv(h, b, o)) or got)
    assert file.read(("latents",), slice(5000, 5016))[0].shape == (16, 16, 16)
    assert sum(read) == 16 * 512 + tensor_files._FIRST and len(read) == 2


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    for change in ("other bytes", "put in its place", "longer"):
        file = written(tmp_path / "x")
        path = Path(file.path)
        if change == "put in its place":
            (tmp_path / "y").write_bytes(path.read_bytes())
            os.replace(tmp_path / "y", path)
        else:
            path.write_bytes(path.read_bytes()[:-1] + (b"\0" if change == "other bytes" else b"\0\0"))
        os.utime(path, ns=(0, file.identity[1] + (change != "longer")))
        with pytest.raises(ValueError, match="changed after it was checked"):
            file.read(("half",))


HEADER: dict[str, Any] = {"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}
WRONG = {
    "a type": {"dtype": "BF17"}, "no type": {"dtype": None}, "a shape": {"shape": [2, 4]}, "text": {"shape": "23"},
    "below zero": {"shape": [-2, -3]}, "a fraction": {"shape": [2.0, 3]}, "beyond the end": {"data_offsets": [2, 14]},
    "backwards": {"shape": [0], "data_offsets": [12, 0]}, "one place": {"data_offsets": [12]}, "a list": {"dtype": []},
    "before the start": {"data_offsets": [-12, 0]}, "huge": {"shape": [2**70, 3]},
    "huge and empty": {"shape": [0, 2**70], "data_offsets": [0, 0]},
}  # fmt: skip


def with_header(header: Any, data: bytes = bytes(12)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_the_header_that_is_changed_below_is_right() -> None:
    assert tensors_of(with_header(HEADER))["a"].shape == (2, 3)


@pytest.mark.parametrize("what", WRONG)
def test_what_a_header_cannot_say_is_refused(what: str) -> None:
    with pytest.raises(ValueError, match="header"):
        tensors_of(with_header({"a": HEADER["a"] | WRONG[what]}))


@pytest.mark.parametrize("header", [[], 3, {"a": []}, {"a": {}}, None], ids=str)
def test_a_header_of_another_kind_is_refused(header: Any) -> None:
    with pytest.raises(ValueError, match="header"):
        tensors_of(with_header(header))


@given(st.binary(max_size=64) | st.integers(0, 400).map(lambda place: place.to_bytes(2, "big")))
def test_bytes_that_are_no_such_file_are_refused_or_read(data: bytes) -> None:
    good = save(TENSORS)
    changed = bytearray(good)
    if len(data) == 2:
        changed[int.from_bytes(data, "big") % len(good)] ^= 4
    for candidate in (data, bytes(changed), good[: len(good) - len(data) - 1]):
        try:
            tensors_of(candidate)
        except ValueError:
            continue

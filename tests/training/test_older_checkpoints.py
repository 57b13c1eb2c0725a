"""Checkpoints of an older version: settings that are newer than they had their defaults then."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from fastdreamer.config import load_config
from fastdreamer.errors import UserError
from fastdreamer.run.checkpoint import Checkpoint, architecture
from fastdreamer.run.directory import check_architecture


def older(**dropped: str) -> Checkpoint:
    saved = copy.deepcopy(architecture(load_config("debug")))
    for section, name in dropped.items():
        del saved[section][name]
    return Checkpoint(Path("old"), {}, {"phase": 2, "step": 1, "architecture": saved})


def test_a_checkpoint_without_a_newer_setting_is_read_where_that_has_its_default() -> None:
    check_architecture(older(dynamics="linear_start", heads="history", forcing="levels"), load_config("debug"))


def test_it_is_refused_where_the_newer_setting_is_another() -> None:
    with pytest.raises(UserError, match="linear_start"):
        check_architecture(older(dynamics="linear_start"), load_config("debug", ["dynamics.linear_start=true"]))


def test_weights_that_are_no_text_are_refused() -> None:
    checkpoint = older()
    checkpoint.state["architecture"]["tokenizer"]["weights"] = 5
    with pytest.raises(UserError, match=r"tokenizer\.weights=5"):
        check_architecture(checkpoint, load_config("debug"))

"""Batches made ahead: the same ones, resumed exactly, with errors where they belong and no thread left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch
from latents.episodes import MIXED, equal, mixed, numbered, sampler

from fastdreamer.errors import UserError
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.loader import Loader
from fastdreamer.shapes import LatentClock

CPU = torch.device("cpu")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("stop", [3, 4, 9, 31])  # an epoch of the labelled crops ends inside the tenth batch
def test_a_resumed_feed_goes_on_as_if_uninterrupted(ahead: int, stop: int) -> None:
    expected = [sampler(mixed(), **MIXED).batch(i) for i in range(stop + 12)]
    with Loader(sampler(mixed(), **MIXED), CPU, ahead) as loader:
        for number in range(stop):
            assert equal(loader.draw(), expected[number])
        state = loader.get_state()
    with Loader(sampler(mixed(), **MIXED), CPU, ahead) as resumed:
        resumed.draw()  # what it has made ahead by now is not the state's
        resumed.set_state(state)
        for number in range(stop, stop + 12):
            assert equal(resumed.draw(), expected[number])


def test_the_state_counts_batches_consumed_not_made() -> None:
    with Loader(sampler(mixed()), CPU, ahead=4) as loader:
        loader.draw()
        assert loader.get_state().tolist() == [1]


class Faulty(CropSampler):
    """A stand-in for a store that goes bad: batch 3 fails the first time."""

    fails = True

    def batch(self, number: int) -> Any:
        if number == 3 and self.fails:
            self.fails = False
            raise UserError("the store is gone")
        return super().batch(number)


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_in_the_thread_is_raised_by_its_own_draw_as_itself(ahead: int) -> None:
    clock = LatentClock(1, 1)
    source = Faulty([numbered(40, clock)], clock, 4, 4, 0)
    with Loader(source, CPU, ahead) as loader:
        for _ in range(3):
            loader.draw()
        with pytest.raises(UserError, match="the store is gone"):
            loader.draw()
        assert equal(loader.draw(), source.batch(3)), "nothing was skipped"
        assert equal(loader.draw(), source.batch(4))


def test_closing_ends_the_thread_and_forgets_nothing() -> None:
    assert not threads()
    loader = Loader(sampler(mixed()), CPU, ahead=2)
    assert not threads(), "no thread before there is work"
    loader.draw()
    assert len(threads()) == 1
    loader.close()
    assert not threads()
    with loader:
        assert equal(loader.draw(), sampler(mixed()).batch(1))
    with pytest.raises(KeyboardInterrupt), loader:
        loader.draw()
        raise KeyboardInterrupt
    assert not threads()


LEFT_OPEN = """
import torch
from latents.episodes import mixed, sampler
from fastdreamer.latents.loader import Loader
feed = Loader(sampler(mixed()), torch.device("cpu"), ahead=3)
feed.draw()
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise SystemExit(7)", 7), ("raise KeyboardInterrupt", -2)])
def test_a_feed_left_open_does_not_keep_the_process(end: str, code: int) -> None:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n" + LEFT_OPEN.format(end=end)]
    assert subprocess.run(command, timeout=60, capture_output=True).returncode == code


def test_a_data_position_of_an_older_version_is_refused() -> None:
    with pytest.raises(UserError, match="older FastDreamer"):
        Loader(sampler(mixed()), CPU).set_state(torch.Generator().get_state())


def test_waiting_is_the_time_spent_in_draw() -> None:
    loader = Loader(sampler(mixed()), CPU)
    began = time.perf_counter()
    for _ in range(5):
        loader.draw()
    assert 0 < loader.waited_s <= time.perf_counter() - began

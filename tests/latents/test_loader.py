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
from fastdreamer.latents.loader import Feed
from fastdreamer.shapes import LatentClock

CPU = torch.device("cpu")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("stop", [3, 4, 9, 31])  # an epoch of the labelled crops ends inside the tenth batch
def test_a_resumed_feed_goes_on_as_if_uninterrupted(ahead: int, stop: int) -> None:
    expected = [sampler(mixed(), **MIXED).batch(i) for i in range(stop + 12)]
    with Feed(sampler(mixed(), **MIXED), CPU, ahead) as feed:
        for number in range(stop):
            assert equal(feed.draw(), expected[number])
        state = feed.get_state()
    with Feed(sampler(mixed(), **MIXED), CPU, ahead) as resumed:
        resumed.draw()  # what it has made ahead by now is not the state's
        resumed.set_state(state)
        for number in range(stop, stop + 12):
            assert equal(resumed.draw(), expected[number])


def test_the_state_counts_batches_consumed_not_made() -> None:
    with Feed(sampler(mixed()), CPU, ahead=4) as feed:
        feed.draw()
        assert feed.get_state().tolist() == [1]


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
    with Feed(source, CPU, ahead) as feed:
        for _ in range(3):
            feed.draw()
        with pytest.raises(UserError, match="the store is gone"):
            feed.draw()
        assert equal(feed.draw(), source.batch(3)), "nothing was skipped"
        assert equal(feed.draw(), source.batch(4))


def test_closing_ends_the_thread_and_forgets_nothing() -> None:
    assert not threads()
    feed = Feed(sampler(mixed()), CPU, ahead=2)
    assert not threads(), "no thread before there is work"
    feed.draw()
    assert len(threads()) == 1
    feed.close()
    assert not threads()
    with feed:
        assert equal(feed.draw(), sampler(mixed()).batch(1))
    with pytest.raises(KeyboardInterrupt), feed:
        feed.draw()
        raise KeyboardInterrupt
    assert not threads()


LEFT_OPEN = """
import torch
from latents.episodes import mixed, sampler
from fastdreamer.latents.loader import Feed
feed = Feed(sampler(mixed()), torch.device("cpu"), ahead=3)
feed.draw()
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise SystemExit(7)", 7), ("raise KeyboardInterrupt", -2)])
def test_a_feed_left_open_does_not_keep_the_process(end: str, code: int) -> None:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n" + LEFT_OPEN.format(end=end)]
    assert subprocess.run(command, timeout=60, capture_output=True).returncode == code


def test_a_data_position_of_an_older_version_is_refused() -> None:
    with pytest.raises(UserError, match="older FastDreamer"):
        Feed(sampler(mixed()), CPU).set_state(torch.Generator().get_state())


def test_waiting_is_the_time_spent_in_draw() -> None:
    feed = Feed(sampler(mixed()), CPU)
    began = time.perf_counter()
    for _ in range(5):
        feed.draw()
    assert 0 < feed.waited_s <= time.perf_counter() - began

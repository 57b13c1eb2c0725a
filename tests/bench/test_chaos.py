"""The chaos tool itself: what it must find, it finds; whatever a try does, the next one is made."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.chaos import children, parts, rows
from bench.chaos.children import Child, Ended, each
from bench.chaos.endings import Shortage, wrong_end
from bench.chaos.faults import Watcher, other_errors, places, unclear
from bench.chaos.flips import Target, flips
from bench.chaos.mutations import Input, binary, mutations
from bench.chaos.parts import Job, run_jobs
from bench.chaos.rows import Clock, Row, table
from bench.chaos.stages import Bench, Setting, content, differences
from fastdreamer.errors import UserError
from fastdreamer.system.files import write_atomic


def say(text: str) -> None:
    """In a child: not to what pytest puts in the place of stdout."""
    os.write(1, f"{text}\n".encode())


def soon() -> float:
    return time.monotonic() + 60


def test_a_try_that_raises_crashes_or_hangs_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "SILENT_S", 5.0)
    does: dict[str, Callable[[], Any]] = {
        "raise": lambda: {}["x"],
        "exit": lambda: os._exit(3),
        "crash": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "hang": lambda: time.sleep(60),
        "print": lambda: os.write(1, b"x" * 200_000),
        "well": lambda: None,
    }

    def work(name: str) -> str:
        does[name]()
        return ""

    said = each(["well", "raise", "exit", "crash", "print", "hang", "well"], work, soon(), memory_gib=1e4)
    assert said[0] == said[4] == said[6] == ""
    assert "KeyError" in said[1] and "(3)" in said[2] and "(-9)" in said[3] and "hung" in said[5]


def test_a_child_says_how_it_ended_and_what_it_left() -> None:
    def leave() -> None:
        if os.fork() == 0:
            time.sleep(60)
        os.write(1, b"done\n")

    assert Child(lambda: 7).end() == Ended(7, "")
    slow = Child(lambda: time.sleep(60))
    assert slow.sleep(0.05)
    slow.send(signal.SIGKILL)
    assert slow.end().code == -signal.SIGKILL
    kept, children.ENDS_S = children.ENDS_S, 0.2
    try:
        ended = Child(leave).end()
    finally:
        children.ENDS_S = kept
    assert ended.code == 0 and ended.text == "done\n" and ended.left == 1


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_flipped_byte_that_is_taken_for_another_content_is_found(tmp_path: Path, is_checked: bool) -> None:
    (tmp_path / "a").write_bytes(b"content" * 9)
    (tmp_path / "b").write_bytes(b"and more")
    wanted = hashlib.sha256(b"content" * 9).hexdigest()

    def read(folder: Path) -> bytes:
        data = (folder / "a").read_bytes()
        if is_checked and hashlib.sha256(data).hexdigest() != wanted:
            raise UserError("damaged")
        return data

    row = flips(Target("it", tmp_path, read), 40, Clock(60), seed=0)
    assert row.tries == 40 and len(row.failures) == (0 if is_checked else 20)
    assert "20 harmless" in row.note and (tmp_path / "a").read_bytes() == b"content" * 9


def test_another_exception_than_ours_is_a_failure_of_an_input() -> None:
    def read(data: bytes) -> None:
        if len(data) != 8:
            raise UserError("too short")
        if data != b"12345678":
            raise KeyError(data)

    row = mutations(Input("it", b"12345678", binary, read), 50, Clock(60), seed=0)
    again = mutations(Input("it", b"12345678", binary, read), 50, Clock(60), seed=0)
    assert row.tries == 50 and 0 < len(row.failures) < 50 and row.failures == again.failures
    assert all("KeyError" in text for text in row.failures) and "refused" in row.note


def test_every_place_that_writes_is_met(tmp_path: Path) -> None:
    out, work = tmp_path / "seen", tmp_path / "work"
    work.mkdir()

    def note() -> None:
        watcher = Watcher(work)
        watcher.watch()
        write_atomic(work / "file", b"x")
        out.write_text("\n".join(watcher.places))

    assert Child(note).end().code == 0
    places = out.read_text().splitlines()
    assert {place.split()[1] for place in places} >= {"open", "os.rename", "fsync"}
    for place in places:

        def fail(place: str = place) -> int:
            Watcher(work, place, errno.ENOSPC).watch()
            try:
                write_atomic(work / "file", b"y")
            except UserError as error:
                return 5 if "the disk is full" in str(error) else 6
            return 7

        ended = Child(fail).end()
        assert ended.code in (5, 7), ended.text  # 7: while it cleans up


def test_a_place_of_a_forked_worker_is_met_and_fails_once(tmp_path: Path) -> None:
    def once() -> None:
        try:
            write_atomic(tmp_path / "file", b"x")
        except UserError as error:
            say(str(error))

    def both() -> None:
        watcher.watch()
        for _ in range(2):
            say(Child(once).end().text)

    watcher = Watcher(tmp_path)
    assert Child(both).end().code == 0
    (place,) = (place for place in watcher.places if " os.rename " in place)
    assert not watcher.has_raised
    watcher = Watcher(tmp_path, place, errno.ENOSPC)
    ended = Child(both).end()
    assert watcher.has_raised and ended.text.count("the disk is full") == 1


class Tiny(Bench):
    """A stage that writes two files and then says that it is done; `is_sound`: it notices what it could not write."""

    is_sound = True

    def command(self, stage: str, forks: bool = False) -> None:
        if (self.work / "done").exists():
            return
        for name in ("a", "b"):
            try:
                write_atomic(self.work / name, name.encode())
            except UserError as error:
                if self.is_sound:
                    say(f"fastdreamer: error: {error}")
                    raise SystemExit(2) from None
        (self.work / "done").write_text("")


@pytest.mark.parametrize("is_sound", [True, False])
def test_every_place_of_a_command_is_met_and_what_does_not_go_on_is_found(tmp_path: Path, is_sound: bool) -> None:
    bench = Tiny(tmp_path / "bench")
    (tmp_path / "empty").mkdir()
    bench.before["it"] = tmp_path / "empty"
    bench.restore("it")
    bench.finish("it")
    bench.after["it"] = content(bench.work)
    bench.is_sound = is_sound
    given = Setting(tmp_path, tmp_path, bench, Clock(60), is_short=True, seed=0)
    row = places(given, "it")
    assert row.note == f"{row.tries} of {row.tries} places met" and row.tries > 5
    assert bool(row.failures) != is_sound and all("it l" in text for text in row.failures)  # lacks, leaves litter
    others = other_errors(given, "it")
    assert others.tries > row.tries and others.note == "" and bool(others.failures) != is_sound


def test_memory_runs_out_where_it_is_told_to_and_what_hides_it_is_wrong() -> None:
    def work() -> None:
        for _ in range(2):
            try:
                torch.zeros(1).add(1)
            except torch.OutOfMemoryError as error:
                say(str(error))

    for first, is_for_all, times in ((0, False, 0), (3, False, 1), (2, True, 2)):
        with_mode = Shortage(first, is_for_all)
        assert Child(lambda mode=with_mode: run_in(mode, work)).end().text.count("out of memory") == times
    assert wrong_end(Ended(2, "fastdreamer: error: out of memory (x)")) == ""
    assert wrong_end(Ended(0, "pixel decoder: not trained, for ...")) == ""
    assert "ends well" in wrong_end(Ended(0, "done")) and "does not say" in wrong_end(
        Ended(2, "fastdreamer: error: the disk is full")
    )


def run_in(mode: Shortage, work: Callable[[], None]) -> None:
    with mode:
        work()


def test_every_job_is_taken_once_and_one_that_breaks_costs_its_lane_alone(tmp_path: Path) -> None:
    def work(name: str) -> Callable[[Setting], Iterator[Row]]:
        def rows(given: Setting) -> Iterator[Row]:
            if name == "broken":
                raise KeyError(name)
            yield Row("part", name, 1)

        return rows

    names = ["a", "broken", *"bcdef"]
    jobs = [Job("part", 1.0, work(name), needs_bench=False) for name in names]
    found = run_jobs(jobs, tmp_path, (), Clock(60), 0, True)
    assert [row.what for row in found] == [*"abcdef", "1 more jobs", "itself"] and len(found[-1].failures) == 1
    (late,) = run_jobs(jobs, tmp_path / "late", (), Clock(0), 0, True)
    assert late.what == "7 more jobs" and late.note == "not begun, for time"


@pytest.mark.parametrize(
    ("ended", "wrong"),
    [
        (Ended(0, ""), ""),
        (Ended(2, "fastdreamer: error: the disk is full\n"), ""),
        (Ended(2, ""), "0 lines of error"),
        (Ended(1, "Traceback (most recent call last):\nKeyError: 1"), "a traceback: KeyError: 1"),
        (Ended(-9, ""), "exit code -9"),
    ],
)
def test_what_is_no_clear_end(ended: Ended, wrong: str) -> None:
    assert unclear(ended).startswith(wrong) and bool(unclear(ended)) == bool(wrong)


def test_what_a_disturbed_command_left_is_compared(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    wanted, well = content(tmp_path), Ended(0, "")
    assert differences(well, wanted, content(tmp_path), "it") == []
    assert "does not go on" in differences(Ended(2, "no"), wanted, wanted, "it")[0]
    (tmp_path / "a").write_text("2")
    assert differences(well, wanted, content(tmp_path), "it") == ["it has other bits: a"]
    (tmp_path / ".b.tmp-1").mkdir()
    assert "litter: .b.tmp-1" in differences(well, wanted, content(tmp_path), "it")[0]
    assert differences(well, wanted, {}, "it") == ["it lacks a"]


def test_the_table_counts_and_gives_examples() -> None:
    text = table([Row("one", "thing", 1200, ["bad", "bad", "worse"], "a note", 3.4)], seed=5)
    assert "| one | thing | 1,200 | 3 | 3 | a note |" in text and "seed 5" in text
    assert "2 x bad" in text and "one, thing: 3 of 1,200 failed" in text
    assert rows.Clock(0.0).part(0.5).is_over


def test_flips_are_tried_even_where_making_what_is_changed_took_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    target = Target("it", tmp_path, lambda folder: (folder / "file").read_bytes())
    monkeypatch.setattr(parts.flips, "targets", lambda _: [target])
    none: Any = None
    (row,) = parts._flips(Setting(tmp_path, none, none, Clock(0.0), is_short=True, seed=0))
    assert row.tries == 40

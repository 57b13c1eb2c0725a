"""A command takes as many threads as there are free cores, and goes on with those that a phase was begun with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastdreamer.config import Config, load_config
from fastdreamer.device import go_on_with_threads, use_spare_cores
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.system import cores
from fastdreamer.training.train import train


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Torch's threads, eight at first, of a command on a machine where two cores are free."""
    now = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    monkeypatch.setattr(cores, "started", cores.Clock.now())
    monkeypatch.setattr(cores.Clock, "spare_cores", lambda _: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    return now


def test_a_command_takes_the_cores_that_are_free(threads: list[int]) -> None:
    use_spare_cores()
    assert threads == [2]
    threads[0] = 1
    use_spare_cores()
    assert threads == [1], "never more than torch would take"


def test_a_library_and_who_says_how_many_are_left_alone(threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    use_spare_cores()
    go_on_with_threads(3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(cores, "started", None)
    use_spare_cores()
    go_on_with_threads(3)
    assert threads == [8]


@pytest.mark.parametrize("noted", [None, 0, -1, 10**9, True, "2", 2.0])
def test_what_is_no_number_of_threads_is_passed_over(threads: list[int], noted: object) -> None:
    go_on_with_threads(noted)
    assert threads == [8]


def test_a_phase_goes_on_with_the_threads_it_was_begun_with(
    threads: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(steps: int, resume: bool) -> Config:
        config = load_config("debug", ["device=cpu", "data.recordings=/nonexistent", f"phase1.steps={steps}"])
        if not resume:
            write_synthetic_store(tmp_path / "store", config.tokenizer.clock, action_space(config.data.env), 4, 16, 0)
        train(config, tmp_path, 1, resume=resume, draws=False)
        return config

    threads[0] = 3
    config = trained(1, resume=False)
    assert RunDirectory(tmp_path).load(1, config).state["threads"] == 3
    threads[0] = 2
    trained(2, resume=True)
    assert threads == [3] and "threads: 3, as this phase began; OMP_NUM_THREADS" in capsys.readouterr().out

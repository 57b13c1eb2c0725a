"""What each phase trains on, what it refuses, where the store lives, and the share of time spent waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.errors import Stopped, UserError
from fastdreamer.latents.batch import align
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.metrics import read_metrics
from fastdreamer.training.optim import EMA
from fastdreamer.training.phase_data import before_end, choose_home, held_out_batch, training_loader
from fastdreamer.training.train import build_phase, train

from .conftest import BACKEND, Clock, one_loss

CPU = torch.device("cpu")
Small = Callable[..., Config]
MakeRun = Callable[..., Path]


def loader_of(config: Config, phase: int, run: Path) -> Loader:
    return training_loader(config, phase, LatentStore.open(run / "store"), CPU)


def test_phase_one_mixes_lengths_and_video_and_the_others_take_whole_labelled_crops(
    small: Small, mixed_run: MakeRun
) -> None:
    config = small(
        "sampling.short_window=2", "sampling.long_every=2", "sampling.single_step=0.25", "sampling.unlabelled=0.25"
    )
    run = mixed_run(config)
    batches = {}
    for phase in (1, 2, 3):
        with loader_of(config, phase, run) as loader:
            batches[phase] = [loader.draw() for _ in range(8)]
    assert sorted(b.latents.shape[1] for b in batches[1]) == [1, 1, 2, 2, 2, 5, 5, 5]
    assert [int(b.labelled.sum()) for b in batches[1]] == [3] * 8
    for phase, length in ((2, 5), (3, config.imagination.start_context)):
        assert all(b.latents.shape[1] == length and b.labelled.all() for b in batches[phase])


def test_every_phase_trains_on_a_mixed_store_with_every_option(small: Small, mixed_run: MakeRun) -> None:
    config = small("sampling.short_window=2", "sampling.single_step=0.3", "sampling.reward_weighted=0.5")
    run = mixed_run(config)
    for phase in (1, 2, 3):
        assert torch.tensor(train(config, run, phase)["figures"]["loss"]).isfinite()
    steps = {row["data/steps"] for row in read_metrics(run) if row["phase"] == 1}
    assert len(steps) > 1 and steps <= {1.0, 2.0, 5.0}


def test_video_without_actions_alone_trains_phase_one_and_is_refused_by_phase_two(
    small: Small, changed_run: MakeRun
) -> None:
    config = small()
    run = changed_run(config, lambda i: {"labelled": False, "rewarded": False})
    assert torch.tensor(train(config, run, 1)["figures"]["loss"]).isfinite()
    with pytest.raises(UserError, match="no labelled episode to train phase 2 on") as caught:
        train(config, run, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="phase 3"):
        loader_of(config, 3, run)
    assert held_out_batch(config, LatentStore.open(run / "store")) is None


def test_recordings_without_rewards_clone_a_policy_and_go_no_further(
    small: Small, changed_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("phase2.log_every=1")
    run = changed_run(config, lambda i: {"rewarded": False})
    for phase in (1, 2):
        train(config, run, phase)
    printed = [line for line in capsys.readouterr().out.splitlines() if "has rewards" in line]
    assert printed == ["no training episode has rewards: phase 2 clones the policy alone, phase 3 cannot follow"]
    rows = [row for row in read_metrics(run) if row["phase"] == 2]
    assert all(row["loss/policy"] > 0 and row["loss"] > 0 for row in rows)
    assert not any(name.endswith(("reward", "value", "continue")) for row in rows for name in row)
    saved = RunDirectory(run).load(2, config).tensors["ema"]
    assert not saved["agent.reward.net.out.weight"].any() and saved["agent.policy.net.out.weight"].any()
    with pytest.raises(UserError, match="cloned from recordings without rewards.*store with rewards") as caught:
        train(config, run, 3)
    assert "\n" not in str(caught.value)


def test_a_batch_without_a_reward_has_a_finite_loss_and_teaches_the_reward_nothing(
    small: Small, changed_run: MakeRun
) -> None:
    config = small("phase2.batch_size=1")
    run = changed_run(config, lambda i: {"split": "train", "rewarded": i == 0})
    train(config, run, 1)
    store = LatentStore.open(run / "store")
    phase = build_phase(config, 2, store, RunDirectory(run).load(1, config), BACKEND)
    seen = set()
    for step in range(12):
        known = bool(phase.loader.sampler.batch(step).reward_valid.any())  # type: ignore[union-attr]
        phase.model.zero_grad()
        loss, _ = one_loss(phase, step)
        loss.backward()
        gradients = [p.grad for p in phase.model.get_submodule("agent.reward").parameters() if p.grad is not None]
        assert loss.isfinite() and all(g.isfinite().all() for g in gradients)
        assert any(bool(g.any()) for g in gradients) == known
        seen.add(known)
    assert seen == {True, False}


@pytest.mark.parametrize("chunk", [1, 4])
def test_no_dream_starts_where_an_episode_ended(small: Small, changed_run: MakeRun, chunk: int) -> None:
    config = small(f"tokenizer.frames_per_latent={chunk}", f"tokenizer.window={1 if chunk == 1 else 9}")
    run = changed_run(config, lambda i: {"split": "train"})
    ends = {}
    for phase in (2, 3):
        with loader_of(config, phase, run) as loader:
            batches = [loader.draw() for _ in range(40)]
        ends[phase] = sum(int((b.continues[:, -1] == 0).sum()) for b in batches)
        assert all((b.continues[:, :-1] == 1).all() for b in batches)
    assert ends[2] > 0 and ends[3] == 0


def test_what_is_before_an_end_is_a_whole_episode(small: Small, new_run: MakeRun) -> None:
    config = small()
    store = LatentStore.open(new_run(config) / "store")
    ended, running = store.episodes[0], store.episodes[1]
    assert before_end(running, store.clock) is running
    assert before_end(replace(ended, rewarded=False), store.clock).length == ended.length, "its end is not known"
    before = before_end(ended, store.clock)
    assert len(before.latents) == len(ended.latents) - 1 and not before.terminals.any()
    whole, cut = align(ended, store.clock), align(before, store.clock)
    assert all(torch.equal(getattr(cut, n)[:, :-1], getattr(whole, n)[:, :-2]) for n in ("actions", "rewards"))


def test_rewards_to_draw_by_that_are_not_there_are_refused(small: Small, changed_run: MakeRun) -> None:
    config = small("sampling.reward_weighted=0.5")
    run = changed_run(config, lambda i: {"rewarded": False})
    for phase in (1, 2):
        with pytest.raises(UserError, match=r"reward_weighted is 0\.5, but no labelled .*: set it to 0"):
            loader_of(config, phase, run)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.short_window=5", "short_window 5 must be below dynamics.window 5"),
        ("sampling.short_window=1", "single_step"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(small: Small, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(override)


def test_where_the_store_lives_is_printed(small: Small, new_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    config = small()
    path = new_run(config) / "store"
    for limit, expected in ((4.0, "in RAM"), (0.0, "on disk, read when used: over data.memory_limit_gb 4")):
        assert choose_home(config, LatentStore.open(path, memory_limit_gb=limit), CPU) == CPU
        printed = capsys.readouterr().out
        assert printed.startswith("latent store: 0.0 MiB, ") and printed.strip().endswith(expected)
    with pytest.raises(UserError, match="resident is card but training runs on cpu"):
        choose_home(small("data.resident=card"), LatentStore.open(path), CPU)


@pytest.mark.gpu
def test_a_store_lives_on_the_card_up_to_its_limit(small: Small, new_run: MakeRun) -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    store = LatentStore.open(new_run(small()) / "store")
    for overrides, home in ((), gpu), (["data.card_limit_gb=0"], CPU), (["data.resident=ram"], CPU):
        loader = training_loader(small(*overrides), 1, store, gpu)
        assert loader.sampler.table.device == home and (loader.ahead > 0) == (home == CPU)
        assert loader.draw().latents.device == gpu


def _slow(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float) -> None:
    plain = CropSampler.batch

    def batch(sampler: CropSampler, number: int) -> Any:
        clock.now += seconds
        return plain(sampler, number)

    monkeypatch.setattr(CropSampler, "batch", batch)


def test_the_share_of_time_spent_waiting_is_logged(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    config = small("phase1.checkpoint_every=6")
    for name, seconds, expected in (("fast", 0.0, 0.0), ("slow", 3 * clock.step_s, 0.75)):
        with monkeypatch.context() as patch:
            _slow(patch, clock, seconds)
            run = new_run(config, name)
            train(config, run, 1)
        shares = [row["data/wait_share"] for row in read_metrics(run)]
        assert shares == pytest.approx([expected] * len(shares), abs=1e-6) and len(shares) > 1
    assert "waiting 75.0%" in capsys.readouterr().err


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_thread_hides_what_a_step_outlasts(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    found, waits, update = [], [], EMA.update

    def draw(loader: Loader) -> Any:
        waits.append(not (loader._made and loader._made[0].done()))
        found.append(loader)
        return plain(loader)

    def outlasts(ema: EMA, *args: Any) -> None:
        update(ema, *args)
        assert not wait(found[-1]._made, timeout=60).not_done

    plain = Loader._next
    monkeypatch.setattr(Loader, "_next", draw)
    monkeypatch.setattr(EMA, "update", outlasts)
    config = small(
        "data.memory_limit_gb=0", f"sampling.prefetch={ahead}", "phase1.steps=4", "phase1.checkpoint_every=4"
    )
    train(config, new_run(config), 1)
    assert waits == [True, *[ahead == 0] * 3]


@pytest.mark.parametrize("ending", ["done", "stopped"])
def test_the_thread_ends_with_the_phase(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    overrides = ["phase1.learning_rate=1e30", "phase1.max_skipped=2"] if ending == "stopped" else []
    config = small("sampling.prefetch=3", "data.memory_limit_gb=0", *overrides)
    made_by, plain = set(), CropSampler.batch

    def batch(sampler: CropSampler, number: int) -> Any:
        made_by.add(threading.current_thread().name)
        return plain(sampler, number)

    monkeypatch.setattr(CropSampler, "batch", batch)
    run = new_run(config)
    with pytest.raises(Stopped, match="stopped at step") if ending == "stopped" else nullcontext():
        train(config, run, 1)
    assert made_by == {"batches_0"}
    assert "batches_0" not in {thread.name for thread in threading.enumerate()}


def test_a_thread_makes_batches_where_it_can_gain(small: Small, new_run: MakeRun) -> None:
    run = new_run(small())
    for overrides, ahead in (
        ((), 0),
        (["data.memory_limit_gb=0"], 2),
        (["data.memory_limit_gb=0", "sampling.prefetch=0"], 0),
    ):
        config = small(*overrides)
        store = LatentStore.open(run / "store", memory_limit_gb=config.data.memory_limit_gb)
        assert training_loader(config, 1, store, CPU).ahead == ahead

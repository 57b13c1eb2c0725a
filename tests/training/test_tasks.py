"""Phases 2 and 3 train for named tasks: one, several, and cloned from the best play alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.kept_config import check_run
from fastdreamer.settings import dump_config
from fastdreamer.training.build import build_phase
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.models import load_agent
from fastdreamer.training.phase_data import training_loader
from fastdreamer.training.train import train

from .conftest import BACKEND, one_loss

Small = Callable[..., Config]
MakeRun = Callable[..., Path]
TWO = "tasks.names=[logs, 'first:saplings']"


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores count logs, one every third frame, and saplings."""
    plain = LatentStore.open.__func__  # type: ignore[attr-defined]

    def opened(cls: type[LatentStore], *arguments: Any, **options: Any) -> LatentStore:
        store: LatentStore = plain(cls, *arguments, **options)
        store.episodes = [
            replace(episode, counters={"logs": torch.arange(episode.length) // (3 + i), "saplings": frames_on(episode)})
            for i, episode in enumerate(store.episodes)
        ]
        return store

    monkeypatch.setattr(LatentStore, "open", classmethod(opened))


def frames_on(episode: Any) -> torch.Tensor:
    return (torch.arange(episode.length) > 20).long()


def phase_two(config: Config, run: Path) -> AgentPhase:
    built = build_phase(config, 2, LatentStore.open(run / "store"), RunDirectory(run).load(1, config), BACKEND)
    assert isinstance(built, AgentPhase)
    return built


def test_several_tasks_condition_all_heads_through_every_phase(small: Small, new_run: MakeRun) -> None:
    config = small(TWO)
    run = new_run(config)
    for phase in (1, 2, 3):
        assert torch.tensor(train(config, run, phase)["figures"]["loss"]).isfinite()
    latents, positions = torch.randn(2, 16, 16), torch.zeros(2).long()
    actors = [load_agent(RunDirectory(run), config, 3, BACKEND.device, task) for task in (0, 1)]
    features = [actor.agent.features(latents, None, torch.full((2,), task)) for task, actor in enumerate(actors)]
    for head in (actors[0].agent.policy, actors[0].agent.reward.net, actors[0].agent.continuation):
        assert head is not None
    assert not torch.equal(*(actor.agent.policy(x) for actor, x in zip(actors, features, strict=True)))
    assert actors[0].act(latents, positions, greedy=True).shape == actors[1].act(latents, positions, greedy=True).shape


def test_every_phase_after_the_first_meets_each_task_with_its_rewards(small: Small, new_run: MakeRun) -> None:
    config = small(TWO)
    run = new_run(config)
    train(config, run, 1)
    built = phase_two(config, run)
    work = [built.draw() for _ in range(4)]
    assert {int(task) for one in work for task in one.batch.task} == {0, 1}
    paid = [one.batch.rewards[one.batch.task == task] for one in work for task in (0, 1)]
    assert max(float(x.sum()) for x in paid[::2]) > 1 >= max(float(x.sum(1).max()) for x in paid[1::2] if len(x))


def test_one_task_trains_as_if_its_reward_had_been_recorded(
    small: Small, new_run: MakeRun, changed_run: MakeRun
) -> None:
    plain, named = small(), small("tasks.names=[logs]")
    run = new_run(plain, "named")
    rewards = [torch.diff(torch.arange(89) // (3 + i)).float() for i in range(3)]
    recorded = changed_run(plain, lambda i: {"rewards": rewards[i]}, "recorded")
    found = []
    for config, path in ((named, run), (plain, recorded)):
        train(config, path, 1)
        found.append(train(config, path, 2)["figures"])
    assert found[0].pop("data/wait_share") >= 0 and found[1].pop("data/wait_share") >= 0
    assert found[0] == found[1]


def test_another_runs_phase_one_serves_other_tasks_but_its_phase_two_does_not(small: Small, new_run: MakeRun) -> None:
    plain, wood, both = small(), small("tasks.names=[logs]"), small(TWO)
    run, other = new_run(plain), new_run(plain, "other")
    train(plain, run, 1)
    first, second = (run / "checkpoints" / name for name in ("phase1", "phase2"))
    train(wood, run, 2)
    train(both, other, 2, checkpoint=first)
    with pytest.raises(UserError, match=r"tasks\.names=\['logs'\], the configuration says \['logs', 'first:sap"):
        train(both, new_run(plain, "third"), 3, checkpoint=second)
    with pytest.raises(UserError, match=r"tasks\.names"):
        train(plain, run, 3)


def test_a_run_may_name_other_tasks_until_it_has_cloned(small: Small, tmp_path: Path) -> None:
    dump_config(small(), tmp_path / "config.yaml")
    check_run(tmp_path, small("tasks.names=[logs]", "sampling.clone_top=0.5"))
    (tmp_path / "checkpoints" / "phase2" / "step-00000003").mkdir(parents=True)
    for changed in ("tasks.names=[logs]", "sampling.clone_top=0.5"):
        with pytest.raises(UserError, match="a run keeps its configuration"):
            check_run(tmp_path, small(changed))


def test_an_unknown_task_is_refused_before_phase_two_and_does_not_concern_phase_one(
    small: Small, new_run: MakeRun
) -> None:
    config = small("tasks.names=[reward, lugs]")
    run = new_run(config)
    train(config, run, 1)
    with pytest.raises(UserError, match="task lugs: .* it counts logs, saplings"):
        train(config, run, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["tasks.names=[logs, logs]"], "tasks: names has logs twice"),
        (["tasks.names=['']"], "tasks: names has an empty name"),
        ([TWO, "dynamics.tasks=2"], "dynamics.tasks is 2, but tasks.names names 2 tasks"),
        (["sampling.clone_top=0"], "sampling.clone_top is 0"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(small: Small, override: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(*override)


def test_only_the_best_play_is_cloned_and_valued_and_all_of_it_teaches_rewards(small: Small, new_run: MakeRun) -> None:
    config = small("tasks.names=[logs]", "sampling.clone_top=0.5", "phase2.batch_size=6")
    run = new_run(config)
    train(config, run, 1)
    built, whole = phase_two(config, run), phase_two(small("tasks.names=[logs]", "phase2.batch_size=6"), run)
    seen = set()
    for number in range(6):
        batch, everything = (phase.loader.sampler.batch(number) for phase in (built, whole))
        work, plain = built.work(batch), whole.work(everything)
        cloned = batch.next_valid.any(-1).any(-1)
        for share in (work.policy, work.chosen, work.value):
            assert not share[~cloned].any()
        assert torch.equal(work.reward, plain.reward) and torch.equal(work.continuation, plain.continuation)
        assert plain.value[~cloned].any() == (~cloned).any()
        seen |= set(cloned.tolist())
    assert seen == {True, False}
    assert built.majority != whole.majority


def test_choosing_what_to_clone_without_rewards_is_refused(small: Small, changed_run: MakeRun) -> None:
    config = small("sampling.clone_top=0.5")
    run = changed_run(config, lambda i: {"rewarded": False})
    train(config, run, 1)
    with pytest.raises(UserError, match=r"clone_top is 0\.5, but no labelled .* has rewards to choose by: set it to 1"):
        train(config, run, 2)


def test_what_is_cloned_may_be_chosen_by_another_return_than_the_trained_tasks(
    small: Small, changed_run: MakeRun
) -> None:
    """Episode 0 has the most logs; what was recorded is more in episode 1."""
    config = small("tasks.names=[logs]", "sampling.clone_top=0.5", "sampling.clone_by=reward")
    paid = [torch.zeros(88), torch.ones(88), torch.zeros(88)]
    run = changed_run(config, lambda i: {"split": "train" if i < 2 else "held_out", "rewards": paid[i]})
    store = LatentStore.open(run / "store")
    for by, best in (("reward", 1), ("", 0)):
        with training_loader(replace_clone_by(config, by), 2, store, BACKEND.device) as loader:
            batches = [loader.draw() for _ in range(8)]
        own = store.episodes[best].latents.float()
        for batch in batches:
            for first, actions in zip(batch.latents[:, 0], batch.next_valid, strict=True):
                assert bool(actions.any()) == any(torch.equal(first, step) for step in own)
    unknown = changed_run(config, lambda i: {"rewarded": False}, "unknown")
    with pytest.raises(UserError, match=r"clone_top is 0\.5, but no labelled"):
        training_loader(config, 2, LatentStore.open(unknown / "store"), BACKEND.device)


def replace_clone_by(config: Config, by: str) -> Config:
    return replace(config, sampling=replace(config.sampling, clone_by=by))


def test_phase_three_takes_episodes_whose_rewards_only_some_tasks_know(small: Small, changed_run: MakeRun) -> None:
    config = small("tasks.names=[logs, reward]")
    run = changed_run(config, lambda i: {"split": "train"})
    store = LatentStore.open(run / "store")
    store.episodes[0] = replace(store.episodes[0], counters={})
    with training_loader(config, 3, store, BACKEND.device) as loader:
        batches = [loader.draw() for _ in range(6)]
    assert {int(task) for batch in batches for task in batch.task} == {0, 1}


def test_the_loss_of_a_batch_whose_play_is_not_cloned_is_finite(small: Small, new_run: MakeRun) -> None:
    config = small("tasks.names=[logs]", "sampling.clone_top=0.01", "phase2.batch_size=1")
    run = new_run(config)
    train(config, run, 1)
    built = phase_two(config, run)
    found = [one_loss(built, step) for step in range(6)]
    assert all(loss.isfinite() for loss, _ in found)
    assert {float(figures["loss/policy"]) == 0.0 for _, figures in found} == {True, False}

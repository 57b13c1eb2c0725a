"""What each phase may and may not touch, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.run.checkpoint import load_checkpoint, strip_compiled_prefix
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.metrics import read_metrics
from fastdreamer.training.build import build_phase
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.models import load_agent, load_world_model
from fastdreamer.training.train import train

from .conftest import BACKEND, one_loss

CPU = torch.device("cpu")
MakeRun = Callable[..., Path]


def gradients(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]


@pytest.mark.parametrize("readout", ["latents", "agent_tokens"])
def test_only_the_trainable_parts_of_each_phase_receive_gradients(
    small: Callable[..., Config], new_run: MakeRun, readout: str
) -> None:
    extra = [] if readout == "latents" else ["heads.readout=agent_tokens", "dynamics.agent_tokens=2"]
    config = small("imagination.critic_steps=0", "dynamics.tasks=2", *extra)
    run = RunDirectory(new_run(config))
    for phase in (1, 2):
        train(config, run.path, phase)
    store = LatentStore.open(run.path / "store")
    allowed = {2: {"agent", "scale"}, 3: {"policy", "value", "scale", "calibration"}}
    for phase in (2, 3):
        built = build_phase(config, phase, store, run.load(phase - 1, config), BACKEND)
        loss, _ = one_loss(built, 100)
        loss.backward()
        assert set(dict(built.model.named_children())) == allowed[phase]
        trained = {id(p) for p in built.model.parameters()}
        for name, module in built.frozen.items():
            for parameter in module.parameters():
                assert parameter.grad is None or id(parameter) in trained, f"phase {phase} reached {name}"
                assert parameter.requires_grad == (id(parameter) in trained), f"phase {phase} does not freeze {name}"
        for part in set(allowed[phase]) - {"scale", "calibration"}:
            assert gradients(built.model[part]), f"phase {phase} must train its {part}"  # type: ignore[index]
        if phase == 3:
            agent = built.frozen["agent"]
            assert not gradients(agent.reward) and not gradients(agent.continuation)  # type: ignore[attr-defined]


@pytest.mark.parametrize("readout", ["latents", "agent_tokens"])
def test_later_phases_leave_the_world_model_bit_identical(
    small: Callable[..., Config], new_run: MakeRun, readout: str
) -> None:
    extra = [] if readout == "latents" else ["heads.readout=agent_tokens", "dynamics.agent_tokens=2"]
    config = small(*extra)
    run = RunDirectory(new_run(config))
    for phase in (1, 2, 3):
        train(config, run.path, phase)
    first = load_world_model(run, config, CPU).state_dict()
    for phase in (2, 3):
        frozen = run.load(phase, config).tensors["frozen-world"]
        assert frozen.keys() == first.keys()
        assert all(torch.equal(frozen[k], first[k]) for k in first)
    reward = [run.load(2, config).tensors["ema"][f"agent.{k}"] for k in _reward_names(run, config)]
    kept = [run.load(3, config).tensors["frozen-agent"][k] for k in _reward_names(run, config)]
    assert all(torch.equal(a, b) for a, b in zip(reward, kept, strict=True)), "phase 3 changed the reward head"


def _reward_names(run: RunDirectory, config: Config) -> list[str]:
    return [k for k in run.load(3, config).tensors["frozen-agent"] if k.startswith("reward.")]


def test_phase_one_learns_the_synthetic_world(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small(
        "phase1.steps=80", "phase1.learning_rate=0.01", "dynamics.dim=32", "phase1.batch_size=8", "phase1.log_every=4"
    )
    run = new_run(config)
    train(config, run, 1)
    losses = [row["loss/flow"] for row in read_metrics(run)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5]), losses


def test_cloning_beats_the_majority_class_on_predictable_actions(
    small: Callable[..., Config], new_run: MakeRun
) -> None:
    config = small("phase2.learning_rate=0.01")
    run = RunDirectory(new_run(config))
    train(config, run.path, 1)
    store = LatentStore.open(run.path / "store")
    # The action is written into the latents, so a clone can know it.
    for episode in store.episodes:
        c = store.clock.frames_per_latent
        first = episode.actions[::c, 0].float()
        episode.latents[: len(first), 0, 0] = first.half()
    built = build_phase(config, 2, store, run.load(1, config), BACKEND)
    assert isinstance(built, AgentPhase)
    optimizer = torch.optim.Adam(built.agent.policy.parameters(), 1e-2)
    for step in range(100):
        loss, figures = one_loss(built, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(figures["bc_accuracy"]) > 1.5 * built.majority


def test_a_phase_without_its_parent_is_refused(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small()
    run = new_run(config)
    with pytest.raises(UserError, match="no phase 1 checkpoint; train it first with: fastdreamer train .*--phase 1"):
        train(config, run, 2)
    with pytest.raises(UserError, match="phase is 4"):
        train(config, run, 4)


def test_a_trained_phase_is_not_written_over(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small()
    run = new_run(config)
    train(config, run, 1)
    with pytest.raises(UserError, match="--resume"):
        train(config, run, 1)


def test_a_checkpoint_of_another_configuration_is_refused_by_name(
    small: Callable[..., Config], new_run: MakeRun
) -> None:
    run = new_run(small())
    train(small(), run, 1)
    with pytest.raises(UserError, match=r"dynamics\.dim=16, the configuration says 32"):
        train(small("dynamics.dim=32"), run, 2)


def test_a_flipped_byte_in_any_file_of_a_checkpoint_is_refused(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small()
    run = new_run(config)
    train(config, run, 1)
    newest = load_checkpoint(run / "checkpoints" / "phase1").path
    for file in sorted(newest.iterdir()):
        clean = file.read_bytes()
        spoiled = bytearray(clean)
        spoiled[len(spoiled) // 2] ^= 1
        file.write_bytes(bytes(spoiled))
        with pytest.raises(UserError, match="damaged|cannot be read|lacks"):
            load_checkpoint(newest)
        file.write_bytes(clean)
    load_checkpoint(newest)


def test_a_phase_two_checkpoint_stands_alone(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small()
    run, other = new_run(config), new_run(config, "other")
    for phase in (1, 2):
        train(config, run, phase)
    train(config, other, 3, checkpoint=run / "checkpoints" / "phase2")
    assert load_agent(RunDirectory(other), config, 3, CPU).act(torch.zeros(2, 16, 16), torch.zeros(2).long()).shape == (
        2,
        8,
        1,
    )


def test_compiled_prefixes_are_stripped_at_any_depth() -> None:
    state = {"_orig_mod.a.weight": torch.zeros(1), "b._orig_mod.c": torch.ones(1)}
    assert set(strip_compiled_prefix(state)) == {"a.weight", "b.c"}


def test_latents_of_another_tokenizer_are_refused(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small()
    run = new_run(config)
    train(config, run, 1)
    manifest = read_manifest(run / "store")
    write_manifest(run / "store", manifest | {"key": manifest["key"] | {"tokenizer": "another"}})
    with pytest.raises(UserError, match="tokenizer another instead of"):
        train(config, run, 2)

"""Every cause, planted in a trained run, raises its own flag with its remedy, and none of an unrelated group."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diagnosis.conftest import Found, edit_checkpoint, found, raised
from fastdreamer.config import Config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.health import limits as flags
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.training import cloning_phase as agent_module

Usual = Callable[[int], Found]


def rewrite(run: Path, changes: Callable[[Any], dict[str, Any]]) -> None:
    """Writes every episode of the store anew, with `changes(episode)`."""
    store = run / "store"
    manifest = read_manifest(store)
    for episode in LatentStore.open(store).episodes:
        manifest["episodes"][episode.name] = write_episode(store, replace(episode, **changes(episode)), "test")
    write_manifest(store, manifest)


def check(
    config: Config, run: Path, usual: Usual, phase: int, flag: tuple[str, str], also: set[str], remedy: str
) -> None:
    """Diagnoses, and sees `flag` and its remedy among what is newly raised, which is of its group and `also` alone."""
    checks = found(config, run, phase)
    new = raised(checks) - raised(usual(phase))
    assert flag in new, {key: checks[key]["value"] for key in [*new, flag]}
    assert remedy in checks[flag]["remedy"]
    assert {group for group, _ in new} <= {flag[0], *also}, {key: checks[key] for key in new}


def test_a_healthy_run_raises_nothing_red(usual: Usual) -> None:
    for phase in (1, 2, 3):
        checks = usual(phase)
        assert [key for key, check in checks.items() if check["verdict"] == "red"] == [], phase


# --- what trains and what does not


def test_a_world_model_that_is_not_frozen(
    config: Config, run: Path, usual: Usual, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual(2)
    monkeypatch.setattr(WorldModel, "requires_grad_", lambda self, value=True: self)
    check(config, run, usual, 2, ("models", "frozen parts"), set(), "requires_grad_(False)")


def test_a_head_that_does_not_train(config: Config, run: Path, usual: Usual, monkeypatch: pytest.MonkeyPatch) -> None:
    usual(2)
    init = agent_module.AgentPhase.__init__

    def frozen(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self.agent.policy.requires_grad_(False)

    monkeypatch.setattr(agent_module.AgentPhase, "__init__", frozen)
    check(config, run, usual, 2, ("models", "parameter groups"), set(), "must require gradients")


def test_a_checkpoint_of_other_names(config: Config, run: Path, usual: Usual) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["agent.policy.other"] = tensors.pop("agent.policy.net.out.bias")

    edit_checkpoint(run, 2, "ema", rename)
    check(config, run, usual, 2, ("checkpoint", "names"), {"policy"}, "strip_compiled_prefix()")


def test_a_checkpoint_with_compile_prefixes(config: Config, run: Path, usual: Usual) -> None:
    def prefix(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("agent.policy.")]:
            tensors[name.replace("policy.", "policy._orig_mod.")] = tensors.pop(name)

    edit_checkpoint(run, 2, "ema", prefix)
    check(config, run, usual, 2, ("checkpoint", "names"), set(), "strip_compiled_prefix()")


# --- loss, gradient, memory, time


def test_a_loss_that_is_no_number(config: Config, run: Path, usual: Usual) -> None:
    edit_checkpoint(run, 1, "ema", lambda tensors: tensors["world.readout.weight"].fill_(1e30))
    check(config, run, usual, 1, ("loss", "loss"), {"gradient", "actions", "imagination"}, "phase1.learning_rate")


def test_an_exploding_gradient(config: Config, run: Path, usual: Usual) -> None:
    edit_checkpoint(run, 1, "ema", lambda tensors: tensors["world.readout.weight"].mul_(1e4))
    check(config, run, usual, 1, ("gradient", "gradient norm"), {"actions", "imagination"}, "phase1.clip_norm")


def test_a_vanishing_gradient(config: Config, run: Path, usual: Usual, monkeypatch: pytest.MonkeyPatch) -> None:
    usual(2)
    losses = agent_module.AgentPhase.losses
    monkeypatch.setattr(
        agent_module.AgentPhase, "losses",
        lambda self, work, factors: (lambda total, figures: (total * 1e-9, figures))(*losses(self, work, factors)),
    )  # fmt: skip
    check(config, run, usual, 2, ("gradient", "gradient norm"), set(), "requires gradients")


def test_memory_over_the_budget(config: Config, run: Path, usual: Usual) -> None:
    small = replace(config, memory_gb=0.05)
    check(small, run, usual, 2, ("memory", "memory"), set(), "phase2.micro_batch")


def test_a_loader_that_is_waited_for(config: Config, run: Path, usual: Usual, monkeypatch: pytest.MonkeyPatch) -> None:
    usual(2)
    batch = CropSampler.batch
    monkeypatch.setattr("fastdreamer.tools.diagnosis.loaded_phase.BRIEF_S", 0.1)
    monkeypatch.setattr(CropSampler, "batch", lambda self, number: (time.sleep(0.2), batch(self, number))[1])
    check(config, run, usual, 2, ("data", "waiting for data"), set(), "sampling.prefetch")


def metrics(run: Path, values: list[float]) -> None:
    rows = [{"phase": 1, "step": 10 * i, "loss/dynamics": value} for i, value in enumerate(values)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("values", "verdict", "remedy"),
    [
        ([1.0] * 30, "red", "raise phase1.learning_rate"),
        ([1 / (i + 1) if i % 7 else 50.0 for i in range(1, 31)], "red", "warmup_steps"),
        ([1 / (i + 1) for i in range(30)], "ok", ""),
        ([1.0] * 5, "too early", ""),
    ],
)
def test_a_flat_or_spiking_loss(
    config: Config, run: Path, usual: Usual, values: list[float], verdict: str, remedy: str
) -> None:
    metrics(run, values)
    checks = found(config, run, 1)
    curve = checks["loss", "loss curve"]
    assert curve["verdict"] == verdict and remedy in curve["remedy"]
    assert raised(checks) - {("loss", "loss curve")} == raised(usual(1)) - {("loss", "loss curve")}


def test_without_metrics_only_the_loss_curve_has_no_verdict(config: Config, run: Path, usual: Usual) -> None:
    (run / "metrics.jsonl").unlink()
    for phase in (1, 2, 3):
        checks = found(config, run, phase)
        changed = {key for key in checks if checks[key]["verdict"] != usual(phase)[key]["verdict"]}
        assert changed == ({("loss", "loss curve")} if phase < 3 else set())


# --- data and latents


def test_damaged_episodes(config: Config, run: Path, usual: Usual) -> None:
    manifest = read_manifest(run / "store")
    manifest["skipped"] = {f"broken-{i}": "no video" for i in range(3)}
    write_manifest(run / "store", manifest)
    check(config, run, usual, 1, ("data", "damaged episodes"), set(), "fastdreamer inspect")


def test_data_of_one_action(config: Config, run: Path, usual: Usual) -> None:
    rewrite(run, lambda episode: {"actions": torch.full_like(episode.actions, 3)})
    check(config, run, usual, 2, ("actions", "commonest action"), {"policy", "gradient"}, "heads.focal_gamma")


def test_recordings_without_a_reward(config: Config, run: Path, usual: Usual) -> None:
    rewrite(run, lambda episode: {"rewards": torch.zeros_like(episode.rewards)})
    check(config, run, usual, 2, ("data", "recorded rewards"), {"reward"}, "play that earns some")


def test_latents_of_other_statistics(config: Config, run: Path, usual: Usual) -> None:
    rewrite(run, lambda episode: {"latents": episode.latents * 3 + 2})
    also = {"actions", "imagination", "policy", "gradient"}
    check(config, run, usual, 1, ("latents", "normalised latents"), also, "train phase 1 on this store")


# --- phase 1


def test_actions_that_are_a_step_off(config: Config, run: Path, usual: Usual) -> None:
    rewrite(run, lambda episode: {"actions": episode.actions.roll(1, 0)})
    check(config, run, usual, 1, ("actions", "actions a step early"), {"imagination"}, "not aligned")


def test_a_world_model_that_ignores_actions(config: Config, run: Path, usual: Usual) -> None:
    def deafen(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".actions." in name and tensors[name].ndim == 2]:
            tensors[name].copy_(tensors[name].mean(0, keepdim=True).expand_as(tensors[name]))

    edit_checkpoint(run, 1, "ema", deafen)
    check(config, run, usual, 1, ("actions", "shuffled actions"), {"imagination", "models"}, "train phase 1 longer")


@pytest.mark.parametrize("phase", [1, 3])
def test_dynamics_that_drift(config: Config, run: Path, usual: Usual, phase: int) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("readout.weight"))
        tensors[name].copy_(torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0)))

    edit_checkpoint(run, phase, "ema" if phase == 1 else "frozen-world", spoil)
    also = {"actions", "gradient"} if phase == 1 else {"actions", "value", "advantage", "policy", "prior", "gradient"}
    check(config, run, usual, phase, ("imagination", "drift"), also, "imagination drifts")


def test_limits_are_where_they_are_said_to_be() -> None:
    assert flags.policy_entropy(2, 0.09).verdict == "red" and flags.policy_entropy(2, 0.5).verdict == "amber"
    assert flags.policy_entropy(3, 0.5).verdict == "ok" and flags.policy_entropy(3, 0.09).verdict == "red"
    assert flags.gradient_norm(1, 101.0).verdict == "red" == flags.gradient_norm(1, 9e-7).verdict
    assert flags.gradient_norm(1, float("nan")).verdict == "red"
    assert flags.advantage_sets(9, 9).verdict == "red" and flags.advantage_sets(9, 90).verdict == "amber"
    assert flags.wait_share(0.051).is_raised and not flags.wait_share(0.05).is_raised
    assert flags.cloning_accuracy(0.04, 0.3, 50).verdict == "too early"
    assert flags.cloning_accuracy(0.04, 0.3, 1000).verdict == "red"
    assert flags.reward_spread(0.0099, 0.1).verdict == "red" and flags.reward_spread(0.01, 0.1).verdict == "ok"

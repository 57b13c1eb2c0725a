"""A trained run in a notebook: what it holds, and the snippets of a debugging guide as written there."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastdreamer
from fastdreamer.api import Player, Run, diagnose_phase, open_run
from fastdreamer.config import load_config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.heads.actor import Actor
from fastdreamer.heads.agent import Agent
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import strip_compiled_prefix
from fastdreamer.settings import dump_config
from fastdreamer.tokenizer.engines.installed import open_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(healthy: Path) -> Run:
    return open_run(healthy)


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return torch.randint(0, 256, (2, 3, 9, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_quick_sanity_check_for_phase_1(parts: Run, frames: Tensor) -> None:
    cosmos_tokenizer = parts.tokenizer
    with torch.no_grad():
        out = cosmos_tokenizer.encode(frames)
        T_frames = frames.shape[2]  # noqa: N806
        T_lat_expected = 1 + math.ceil((T_frames - 1) / cosmos_tokenizer.clock.frames_per_latent)  # noqa: N806
    assert out["latents"].shape == (2, T_lat_expected, 16, 16)
    assert out["latents"].isfinite().all() and out["latents"].std() > 0 and not out["latents"].requires_grad


def test_check_for_a_collapsed_policy(parts: Run, frames: Tensor) -> None:
    policy_head = parts.policy_head
    latents_flat = parts.tokenizer.encode(frames)["latents"].flatten(2)
    with torch.no_grad():
        policy_out = policy_head(latents_flat)
        entropy = -(policy_out["probs"] * policy_out["probs"].log()).sum(-1).mean()
    assert torch.allclose(policy_out["probs"].sum(-1), torch.ones(2, 9)) and 0 < entropy <= math.log(17) + 1e-5
    assert parts.value_head(latents_flat).shape == parts.reward_head(latents_flat).shape == (2, 9)


def test_check_imagination_rollout_sanity(parts: Run, frames: Tensor) -> None:
    imagination, tokenizer = parts.imagination, parts.tokenizer
    dynamics, reward_head = parts.dynamics, parts.reward_head
    initial_latents = tokenizer.encode(frames)["latents"][:, :2]
    rollout = imagination(initial_latents, lambda_=0.95)
    assert rollout["rewards"].shape == rollout["advantages"].shape == (2, 4)
    assert rollout["advantages"].std() > 0 and (rollout["rewards"] != 0).float().mean() > 0
    assert not any(p.grad is not None for p in tokenizer.parameters())
    assert not any(p.grad is not None for p in dynamics.parameters())
    assert not any(p.grad is not None for p in reward_head.parameters())
    assert len(list(tokenizer.parameters())) > 10 and len(list(reward_head.parameters())) > 2
    other = imagination(initial_latents, lambda_=0.0)
    assert not torch.equal(other["returns"], rollout["returns"])


def test_diagnose_phase(parts: Run, frames: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    checks = diagnose_phase(1, parts.models(), {"frames": frames}, CPU)
    said = capsys.readouterr().out
    assert said.startswith("=== Phase 1 Diagnostics ===") and "tokenizer: device" in said
    assert [c.name for c in checks if c.verdict == "red"] == []
    assert {"tokenizer: device", "latent steps", "raw latents"} <= {c.name for c in checks}


class NotCausal(nn.Module):
    """Drops the first frame's latent."""

    def __init__(self, parts: Run) -> None:
        super().__init__()
        self.inner, self.clock = parts.tokenizer, parts.tokenizer.clock

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        return {"latents": self.inner.encode(frames)["latents"][:, 1:]}


def test_a_wrong_number_of_latent_steps_is_a_flag(parts: Run, frames: Tensor) -> None:
    checks = diagnose_phase(1, {"tokenizer": NotCausal(parts)}, {"frames": frames}, CPU)
    (red,) = [c for c in checks if c.verdict == "red"]
    assert red.name == "latent steps" and "1 + ceil((T - 1) / c)" in red.remedy and "8 of 9 frames" in red.value


def test_a_forward_pass_that_fails_is_a_flag_and_no_exception(parts: Run) -> None:
    checks = diagnose_phase(1, parts.models(), {"frames": torch.zeros(2, 9, 64)}, CPU)
    assert [c.name for c in checks if c.verdict == "red"] == ["forward pass"]


def test_compiled_prefixes_are_stripped(parts: Run) -> None:
    state = parts.policy_head.state_dict()
    compiled = {f"_orig_mod.{name.replace('net.', 'net._orig_mod.')}": value for name, value in state.items()}
    parts.policy_head.load_state_dict(strip_compiled_prefix(compiled))


def test_the_package_opens_a_run_and_is_cheap_to_import(healthy: Path) -> None:
    code = """
import sys, fastdreamer
assert "torch" not in sys.modules and "fastdreamer.config" not in sys.modules
print(fastdreamer.open_run(sys.argv[1]).config.phase(3).steps, fastdreamer.load_config("debug").seed)
try: fastdreamer.open_rnu
except AttributeError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(healthy)], capture_output=True, text=True, check=True)
    assert done.stdout == "6 0\nmodule 'fastdreamer' has no attribute 'open_rnu'\n"
    assert fastdreamer.open_run is open_run


def test_a_run_says_what_it_holds(parts: Run, healthy: Path) -> None:
    assert parts.path == healthy and parts.config == load_config(healthy / "config.yaml") and parts.phase == 3
    assert {phase: [path.name for path in found] for phase, found in parts.checkpoints.items()} == {
        1: ["step-00000250"],
        2: ["step-00000300"],
        3: ["step-00000006"],
    }
    assert (parts.load_checkpoint().phase, parts.load_checkpoint(1).step) == (3, 250)
    assert parts.store.path == healthy / "store" and len(parts.store.episodes) > 10
    assert parts.store is parts.store and parts.agent is parts.agent and parts.dynamics is parts.world_model
    assert not any(p.requires_grad for p in parts.world_model.parameters())


def test_the_policy_is_that_of_the_phase_that_was_asked_for(parts: Run, healthy: Path) -> None:
    def weights(run: Run) -> Tensor:
        return torch.cat([p.flatten() for p in run.agent.policy.parameters()])

    assert torch.equal(weights(open_run(healthy, 3)), weights(parts))
    assert not torch.equal(weights(open_run(healthy, 2)), weights(parts))


def test_imagine_is_the_imagination_called(healthy: Path, frames: Tensor) -> None:
    latents = open_run(healthy).tokenizer.encode(frames)["latents"][:, :2]
    found, called = open_run(healthy).imagine(latents, horizon=3), open_run(healthy).imagination(latents, 3)
    assert found.keys() == called.keys() and all(torch.equal(found[name], called[name]) for name in found)
    assert found["rewards"].shape == (2, 3)


def test_a_player_does_what_the_actor_does(parts: Run, frames: Tensor) -> None:
    clips = frames.movedim(1, -1)[:, :4, None]  # c is 1: a frame at a time
    latents = parts.tokenizer.encode(frames[:, :, :4])["latents"]
    actor, draws, player = Actor(parts.world_model, parts.agent), torch.Generator().manual_seed(5), parts.player(seed=5)
    done = [player.act(clips[:, t]) for t in range(3)]
    zero = torch.zeros(2, dtype=torch.int64)
    wanted = [actor.act(latents[:, t], zero, generator=draws) for t in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(done, wanted, strict=True))
    assert done[0].shape == (2, 1, 1) and max(int(chunk.max()) for chunk in done) < 17


def test_a_player_takes_chunks_of_frames_and_forgets_at_a_reset() -> None:
    """Its memory is of two episodes, so that what is not forgotten does not fit the one that follows."""
    config = load_config("debug", ["device=cpu", "heads.history=0.9", "tokenizer.weights=random"])
    sizes, chunk = action_space(config.data.env).sizes, config.tokenizer.frames_per_latent
    actor = Actor(WorldModel.build(config, sizes), Agent(config, sizes))
    player = Player(open_tokenizer(config, CPU), actor)
    play = torch.randint(0, 256, (2, 1 + chunk, 64, 64, 3), dtype=torch.uint8)
    for _ in range(2):
        assert player.act(play[:, :1]).shape == player.act(play[:, 1:]).shape == (2, chunk, len(sizes))
        player.reset()
        assert player.act(play[:1, :1]).shape == (1, chunk, len(sizes))
        player.reset()


def test_a_run_that_is_not_trained_opens_and_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        open_run(tmp_path)
    dump_config(load_config("debug", ["device=cpu"]), tmp_path / "config.yaml")
    run = open_run(tmp_path)
    assert run.checkpoints == {} and run.config.device == "cpu"
    with pytest.raises(UserError, match="has no phase 1 checkpoint; train it first with: fastdreamer train"):
        _ = run.world_model
    with pytest.raises(UserError, match="has no phase 2 checkpoint"):
        _ = run.policy_head


def test_heads_on_agent_tokens_are_refused_with_the_way_out(tmp_path: Path) -> None:
    config = load_config("debug", ["device=cpu", "dynamics.agent_tokens=1", "heads.readout=agent_tokens"])
    dump_config(config, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"do not read latents; use run\.agent or run\.player"):
        _ = open_run(tmp_path).policy_head

"""The snippets of the Dreamer 4 plan's debugging guide, run as they are written there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastdreamer.api import Parts, diagnose_phase, open_run
from fastdreamer.run.checkpoint import strip_compiled_prefix

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(healthy: Path) -> Parts:
    return open_run(healthy)


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return torch.randint(0, 256, (2, 3, 9, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_quick_sanity_check_for_phase_1(parts: Parts, frames: Tensor) -> None:
    cosmos_tokenizer = parts.tokenizer
    with torch.no_grad():
        out = cosmos_tokenizer.encode(frames)
        T_frames = frames.shape[2]  # noqa: N806
        T_lat_expected = 1 + math.ceil((T_frames - 1) / cosmos_tokenizer.clock.frames_per_latent)  # noqa: N806
    assert out["latents"].shape == (2, T_lat_expected, 16, 16)
    assert out["latents"].isfinite().all() and out["latents"].std() > 0 and not out["latents"].requires_grad


def test_check_for_a_collapsed_policy(parts: Parts, frames: Tensor) -> None:
    policy_head = parts.policy_head
    latents_flat = parts.tokenizer.encode(frames)["latents"].flatten(2)
    with torch.no_grad():
        policy_out = policy_head(latents_flat)
        entropy = -(policy_out["probs"] * policy_out["probs"].log()).sum(-1).mean()
    assert torch.allclose(policy_out["probs"].sum(-1), torch.ones(2, 9)) and 0 < entropy <= math.log(17) + 1e-5
    assert parts.value_head(latents_flat).shape == parts.reward_head(latents_flat).shape == (2, 9)


def test_check_imagination_rollout_sanity(parts: Parts, frames: Tensor) -> None:
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


def test_diagnose_phase(parts: Parts, frames: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    checks = diagnose_phase(1, parts.models(), {"frames": frames}, CPU)
    said = capsys.readouterr().out
    assert said.startswith("=== Phase 1 Diagnostics ===") and "tokenizer: device" in said
    assert [c.name for c in checks if c.verdict == "red"] == []
    assert {"tokenizer: device", "latent steps", "raw latents"} <= {c.name for c in checks}


class NotCausal(nn.Module):
    """Drops the first frame's latent."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.inner, self.clock = parts.tokenizer, parts.tokenizer.clock

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        return {"latents": self.inner.encode(frames)["latents"][:, 1:]}


def test_a_wrong_number_of_latent_steps_is_a_flag(parts: Parts, frames: Tensor) -> None:
    checks = diagnose_phase(1, {"tokenizer": NotCausal(parts)}, {"frames": frames}, CPU)
    (red,) = [c for c in checks if c.verdict == "red"]
    assert red.name == "latent steps" and "1 + ceil((T - 1) / c)" in red.remedy and "8 of 9 frames" in red.value


def test_a_forward_pass_that_fails_is_a_flag_and_no_exception(parts: Parts) -> None:
    checks = diagnose_phase(1, parts.models(), {"frames": torch.zeros(2, 9, 64)}, CPU)
    assert [c.name for c in checks if c.verdict == "red"] == ["forward pass"]


def test_compiled_prefixes_are_stripped(parts: Parts) -> None:
    state = parts.policy_head.state_dict()
    compiled = {f"_orig_mod.{name.replace('net.', 'net._orig_mod.')}": value for name, value in state.items()}
    parts.policy_head.load_state_dict(strip_compiled_prefix(compiled))

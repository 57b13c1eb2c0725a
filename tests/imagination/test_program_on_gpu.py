"""On a GPU: a captured rollout is the uncaptured one bit for bit, nothing waits for the device, no memory grows.

The same bodies run on a CPU, where a stand-in replays by calling the function; there they show that the tests are
sound, and nothing about CUDA.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import product
from typing import Any
from weakref import ref

import pytest
import torch

from fastdreamer.device import Backend
from fastdreamer.imagination import program as module
from fastdreamer.imagination.merging import TOLERANCE, merged_difference, prove_merged
from fastdreamer.imagination.rollout import Rollout

from .worlds import Imagined, largest_difference, rollouts_of, tiny

PRECISIONS = ("fp32", "bf16")
CAPTURES = ("step", "horizon")
WAYS = [(0, False), (0, True), (2, False)]  # agent tokens, merged commits
HORIZON = 4


def cases(names: str, *axes: Sequence[Any]) -> pytest.MarkDecorator:
    """Every combination on a GPU, on a CPU the first values of each axis. An axis of tuples has several names."""

    def flat(values: Sequence[Any]) -> list[Any]:
        return [one for value in values for one in (value if isinstance(value, tuple) else (value,))]

    few = [[axis[i % len(axis)] for axis in axes] for i in range(min(3, max(map(len, axes), default=1)))]
    on_cpu = [pytest.param("cpu", *flat(values)) for values in few]
    on_gpu = [pytest.param("cuda", *flat(values), marks=pytest.mark.gpu) for values in product(*axes)]
    return pytest.mark.parametrize(f"device,{names}".rstrip(","), on_cpu + on_gpu, indirect=["device"])


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A GPU, or the CPU with a stand-in for capturing."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    if request.param == "cpu":
        monkeypatch.setattr(module, "capture", uncaptured)
    yield torch.device(request.param)
    gc.collect()
    if request.param == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


def uncaptured(function: Callable[[], None], before: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """Runs the function a few times, as capturing does before anything is replayed, and gives it back."""
    for _ in range(2):
        before()
        function()
    return function


@contextmanager
def waits_are_errors(device: torch.device) -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def world_on(device: torch.device, context: int = 3, agent_tokens: int = 0, real: int = 1) -> Imagined:
    return rollouts_of(tiny(context, agent_tokens), count=3, context=real, device=device)


def same(a: Rollout, b: Rollout) -> bool:
    """Bit for bit, in everything that a rollout holds."""
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Rollout))


def moves(rollout: Rollout) -> bool:
    """Whether there is anything to compare."""
    finite = all(bool(getattr(rollout, f.name).isfinite().all()) for f in fields(Rollout))
    return finite and float(rollout.latents.std()) > 0.3 and len(rollout.actions.unique()) > 3


@cases(
    "captures,precision,agent_tokens,merges,real",
    CAPTURES,
    PRECISIONS,
    [(0, True, 1), (2, False, 5), (0, True, 3), (0, False, 1), (2, False, 1)],
)
def test_replays_are_the_uncaptured_program_bit_for_bit_call_after_call(
    device: torch.device, captures: str, precision: str, agent_tokens: int, merges: bool, real: int
) -> None:
    world = world_on(device, agent_tokens=agent_tokens, real=real)
    backend = Backend(device, precision)  # type: ignore[arg-type]
    eager = world.program(HORIZON, merges, backend=backend)
    captured, again = (world.program(HORIZON, merges, backend=backend, captures=captures) for _ in range(2))
    expected = [eager(world.batch) for _ in range(2)]
    assert moves(expected[0])
    for number, rollout in enumerate(expected):
        assert same(captured(world.batch), rollout), f"call {number}"
        assert same(again(world.batch), rollout), f"call {number} of a second program under the same seed"


@cases("captures", CAPTURES)
def test_two_replays_differ_and_a_rollout_outlives_the_next(device: torch.device, captures: str) -> None:
    world = world_on(device)
    program = world.program(HORIZON, merges=True, captures=captures)
    first = program(world.batch)
    kept = Rollout(**{f.name: getattr(first, f.name).clone() for f in fields(Rollout)})
    second = program(world.batch)
    assert not torch.equal(first.latents, second.latents) and not torch.equal(first.actions, second.actions)
    assert same(first, kept)


@cases("captures", CAPTURES)
def test_a_replay_stays_right_when_another_graph_has_ended(device: torch.device, captures: str) -> None:
    """torch frees a workspace of cuBLAS with a graph, and what it may hand out next is NaN here."""
    world = world_on(device)
    expected = world.program(HORIZON, merges=True)(world.batch)
    earlier = world.program(HORIZON, merges=True, captures=captures)
    kept = world.program(HORIZON, merges=True, captures=captures)
    ended = ref(earlier)
    del earlier
    gc.collect()
    assert ended() is None
    blocks = [torch.full((2**18 << i,), float("nan"), device=device) for i in range(4 if device.type == "cpu" else 7)]
    assert same(kept(world.batch), expected) and all(bool(block.isnan().all()) for block in blocks)


@cases("captures", CAPTURES)
def test_a_replay_reads_the_policy_as_it_is_now(device: torch.device, captures: str) -> None:
    world = world_on(device)
    eager = world.program(HORIZON, merges=True)
    captured = world.program(HORIZON, merges=True, captures=captures)
    before = captured(world.batch)
    assert same(before, eager(world.batch))
    with torch.no_grad():
        world.agent.policy.net.out.weight.mul_(-3)
    for program in (eager, captured):
        program.generator.manual_seed(3)
    after = captured(world.batch)
    assert same(after, eager(world.batch)) and not torch.equal(after.actions, before.actions)


@cases("agent_tokens,merges", WAYS)
def test_the_program_is_the_plain_rollout(device: torch.device, agent_tokens: int, merges: bool) -> None:
    world = world_on(device, agent_tokens=agent_tokens)
    expected = world.reference(HORIZON)
    assert moves(expected)
    limit = TOLERANCE * float(expected.latents.abs().max()) if merges else 1e-5
    assert largest_difference(world.program(HORIZON, merges)(world.batch), expected) < limit


@cases("")
def test_merged_commits_are_the_plain_order_of_passes(device: torch.device) -> None:
    world = world_on(device)
    assert 0 < merged_difference(world.world, 2 * HORIZON) <= TOLERANCE
    prove_merged(world.world)


@cases("captures,precision,agent_tokens,merges", ["off", *CAPTURES], PRECISIONS, WAYS)
def test_a_rollout_never_waits_for_the_card(
    device: torch.device, captures: str, precision: str, agent_tokens: int, merges: bool
) -> None:
    world = world_on(device, agent_tokens=agent_tokens)
    backend = Backend(device, precision)  # type: ignore[arg-type]
    program = world.program(HORIZON, merges, backend=backend, captures=captures)
    program(world.batch)
    with waits_are_errors(device):
        rollouts = [program(world.batch) for _ in range(3)]
    assert moves(rollouts[-1])


@pytest.mark.gpu
def test_waiting_for_the_card_is_noticed() -> None:
    gpu = torch.device("cuda")
    x = torch.ones(3, device=gpu)
    for wait in (lambda: float(x.sum()), lambda: x[x > 0], lambda: x.cpu()):
        with pytest.raises(RuntimeError, match="synchronizing"), waits_are_errors(gpu):
            wait()
    assert float(x.sum()) == 3  # the mode is put back


@pytest.mark.gpu
@pytest.mark.parametrize("captures", ["off", *CAPTURES])
@pytest.mark.parametrize("merges", [False, True])
def test_a_thousand_steps_take_no_more_memory(captures: str, merges: bool) -> None:
    world = world_on(torch.device("cuda"))
    program = world.program(20, merges, captures=captures)
    for _ in range(3):
        program(world.batch)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(50):
        program(world.batch)
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


@pytest.mark.gpu
@pytest.mark.parametrize("captures", ["off", *CAPTURES])
@pytest.mark.parametrize("merges", [False, True])
def test_a_compiled_rollout_is_the_eager_one(captures: str, merges: bool) -> None:
    if "beartype" in sys.modules:
        pytest.skip("run-time shape checks and torch.compile do not mix: make gpu runs this without them")
    torch._dynamo.reset()
    gpu = torch.device("cuda")
    world = world_on(gpu)
    expected = world.program(HORIZON, merges)(world.batch)
    assert moves(expected)
    program = world.program(HORIZON, merges, backend=Backend(gpu, "fp32", compiles=True), captures=captures)
    found = program(world.batch)
    assert largest_difference(found, expected) <= 1e-5 * float(expected.latents.abs().max().clamp(min=1))
    program(world.batch)
    with torch._dynamo.config.patch(error_on_recompile=True), waits_are_errors(gpu):
        program(world.batch)

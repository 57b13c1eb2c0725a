"""What is planned on fake tensors is what a real run takes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bench.phases import loader_of, made_up
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics import fused
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.schedule import Share
from fastdreamer.tools.planning.measure import PARTS, measure
from fastdreamer.tools.planning.stand_in import most_of
from fastdreamer.training.build import Kind, build_phase
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.phase_data import held_out_crops
from fastdreamer.training.step import Update

CPU = torch.device("cpu")
FP32, BF16 = Backend(CPU, "fp32"), Backend(CPU, "bf16")
MIB = 2**20
TOKENS = ("heads.readout=agent_tokens", "dynamics.agent_tokens=2")
MUON = ("phase1.optimizer=muon",)
ADAMW = ("phase1.optimizer=adamw",)
Small = Callable[..., Config]


def real_peak(config: Config, number: int, backend: Backend) -> int:
    """Most bytes that torch's CPU allocator gave out while a real phase was built and trained for two steps."""
    loader = loader_of(config, number, CPU)
    held_out = CropSampler(made_up(config), config.tokenizer.clock, config.dynamics.window, held_out_crops(config), 0)
    gc.collect()  # garbage of other tests that ends in between would count as memory given back
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kind: Kind | None = partial(ImaginationPhase, proves=False) if number == 3 else None
        if number == 2:
            kind = partial(AgentPhase, held_out=held_out.batch(0))
        phase = build_phase(config, number, loader, None, backend, kind)
        update = Update(phase, config.phase(number), backend)
        phase.model.train()
        for step in range(2):
            update(step)
            if isinstance(phase, AgentPhase):
                phase.check()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    assert len(events) > 500
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def compare(config: Config, number: int, backend: Backend, tolerance: float) -> None:
    planned = measure(config, number, backend, is_gpu=False).used
    real = real_peak(config, number, backend)
    print(f"phase {number}: planned {planned / MIB:.2f} MiB, real {real / MIB:.2f} MiB, {planned / real:.3f}")
    assert planned == pytest.approx(real, rel=tolerance)


CASES = [
    (1, (*ADAMW, "phase1.micro_batch=2")),
    (1, (*ADAMW, "phase1.micro_batch=6", "phase1.recompute=true")),
    (2, (*TOKENS, "phase2.micro_batch=6")),
    (3, ("phase3.micro_batch=2",)),
]


@pytest.mark.parametrize(("number", "overrides"), CASES)
def test_the_planned_peak_is_that_of_a_real_run(small: Small, number: int, overrides: tuple[str, ...]) -> None:
    compare(small(*overrides), number, FP32, 0.03)


GRID = [
    pytest.param(
        micro,
        backend,
        marks=pytest.mark.slow if (micro, backend) in ((2, BF16), (3, FP32)) else pytest.mark.long,
        id=f"{micro}-{backend.precision}",
    )
    for micro in (2, 3, 6)
    for backend in (FP32, BF16)
]


@pytest.mark.parametrize(("micro", "backend"), GRID)
@pytest.mark.parametrize(
    ("number", "overrides"),
    [
        (1, ADAMW),
        (1, MUON),
        (1, (*ADAMW, "phase1.recompute=true")),
        (1, (*ADAMW, "phase1.accumulate=2")),
        (2, ()),
        (2, TOKENS),
        (2, (*TOKENS, "phase2.recompute=true")),
        (3, ()),
        (3, TOKENS),
        (3, ("imagination.merge_commit=off",)),
    ],
)
def test_the_planned_peak_is_that_of_a_real_run_at_any_setting(
    small: Small, number: int, overrides: tuple[str, ...], micro: int, backend: Backend
) -> None:
    compare(small(f"phase{number}.micro_batch={micro}", *overrides), number, backend, 0.03)


@pytest.mark.parametrize(
    "number", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), pytest.param(3, marks=pytest.mark.long)]
)
def test_the_planned_peak_of_the_demo_is_that_of_a_real_run(number: int) -> None:
    compare(load_config("crafter", ["forcing.boot_warmup=0"]), number, BF16, 0.1)


def test_the_parts_are_all_of_it_and_the_allocator_takes_more(small: Small) -> None:
    found = measure(small("phase3.micro_batch=3", "dynamics.layers=1"), 3, BF16, is_gpu=True)
    none = {"gradients", "communication"}  # the peak is while dreaming, on one GPU
    assert set(found.parts) == set(PARTS) and all(found.parts[name] > 0 for name in PARTS if name not in none)
    assert found.parts["communication"] == 0
    assert found.used == sum(found.parts.values()) <= found.reserved
    assert found.reserved % (2 * MIB) < 1024 * 6 and found.graphs > 0
    plain = measure(small(*ADAMW, "phase1.micro_batch=3", "dynamics.layers=1"), 1, BF16, is_gpu=True).parts
    weights = plain["parameters"]
    assert plain["gradients"] == pytest.approx(weights, rel=0.02)  # two pieces: the gradient of one meets the other
    assert plain["optimizer"] == pytest.approx(2 * weights, rel=0.02)
    assert plain["average"] == pytest.approx(weights, rel=0.001)
    assert plain["frozen"] == plain["caches"] == plain["buffers"] == 0


def test_pieces_and_recomputing_take_less(small: Small) -> None:
    def activations(*overrides: str) -> int:
        plain = ("forcing.boot_fraction=0", *ADAMW)
        return measure(small(*plain, *overrides), 1, BF16, is_gpu=True).parts["activations"]

    whole, half = activations("phase1.micro_batch=6"), activations("phase1.micro_batch=3")
    assert 0.4 * whole < half < 0.65 * whole
    deep = ("phase1.micro_batch=6", "dynamics.layers=4")  # of two layers one is all that is kept
    assert activations(*deep, "phase1.recompute=true") < 0.9 * activations(*deep)


def test_activations_are_affine_in_the_crops_at_once(small: Small) -> None:
    plain = ("phase1.batch_size=16", "forcing.boot_fraction=0", "dynamics.layers=1", *ADAMW)

    def activations(micro: int) -> int:
        found = measure(small(f"phase1.micro_batch={micro}", *plain), 1, BF16, is_gpu=True)
        return found.parts["activations"] + found.parts["gradients"]

    one, two, four = (activations(micro) for micro in (2, 4, 8))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)


def test_a_card_in_bf16_keeps_less_than_the_plain_operations_on_a_cpu(small: Small) -> None:
    """One fused norm and fused attention, where torch on a CPU in bf16 has the norm's parts and the scores."""
    config = small(*ADAMW)
    gpu, ours = (measure(config, 1, BF16, is_gpu=is_gpu).parts["activations"] for is_gpu in (True, False))
    with fused.plain():
        plain = measure(config, 1, BF16, is_gpu=False).parts["activations"]
    assert gpu < 0.8 * plain and ours < 0.8 * plain


def test_planning_draws_no_random_numbers_and_computes_nothing(small: Small) -> None:
    before = torch.get_rng_state()
    config = load_config("minerl_cosmos_80gb", ["phase2.batch_size=4096", "dynamics.layers=1"])  # no memory holds it
    measure(config, 2, BF16, is_gpu=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.125, 1.0, 0.33333, 0.07])
@pytest.mark.parametrize("rows", [1, 3, 4, 16])
def test_the_batch_with_the_most_bootstrap_rows_is_found(share: float, rows: int) -> None:
    for seed in (0, 7, 12345):
        rule = Share(share, seed)

        def held(n: int, rule: Share = rule) -> int:
            return rule.before((n + 1) * rows) - rule.before(n * rows)

        assert held(most_of(rule, rows)) == max(map(held, range(min(rule.of, 2000))))
    assert most_of(Share(0.123456789012345, 1), rows) >= 0  # at once, whatever the digits

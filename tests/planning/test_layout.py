"""Several GPUs: what one rank is planned to hold is what it takes, and what is proposed where a phase does not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from bench.phases import loader_of
from fastdreamer import cli
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.ranks.membership import Ranks
from fastdreamer.ranks.sharding import shard
from fastdreamer.recordings.actions import action_space
from fastdreamer.tools.planning.gpus import named_gpu
from fastdreamer.tools.planning.layout import of_one_rank
from fastdreamer.tools.planning.measure import measure
from fastdreamer.tools.planning.plan import Planner
from fastdreamer.tools.planning.run_memory import RunMemory
from fastdreamer.tools.planning.stand_in import PlannedRanks, planned_mesh
from fastdreamer.training.build import build_phase
from fastdreamer.training.step import Update

CPU = torch.device("cpu")
FP32, BF16 = Backend(CPU, "fp32"), Backend(CPU, "bf16")
Small = Callable[..., Config]


class Pretend(Ranks):
    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


def real_peak(config: Config, backend: Backend, ranks: int) -> int:
    """Most bytes that torch's CPU allocator gave out while the first of `ranks` took two steps; the others are not."""
    loader = loader_of(config, 1, CPU)
    gc.collect()
    with planned_mesh(ranks) as mesh, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        phase = build_phase(config, 1, loader, None, backend)
        assert phase.transformer is not None
        parts = shard(
            phase.model, phase.transformer, PlannedRanks(ranks, lambda _: 0), mesh, backend.precision == "bf16"
        )
        update = Update(phase, config.phase1, backend, 0, parts)
        phase.model.train()
        for step in range(2):
            update(step)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


PIECES = ("phase1.micro_batch=2", "phase1.recompute=true")


@pytest.mark.parametrize(
    ("backend", "optimizer", "more"),
    [
        pytest.param(FP32, "muon", (), id="fp32-muon"),
        *(
            pytest.param(
                backend, optimizer, more, marks=pytest.mark.slow, id=f"{backend.precision}-{optimizer}-{len(more)}"
            )
            for backend in (FP32, BF16)
            for optimizer in ("adamw", "muon")
            for more in ((), PIECES)
        ),
    ],
)
def test_the_planned_peak_of_a_sharded_rank_is_that_of_a_real_run(
    small: Small, backend: Backend, optimizer: str, more: tuple[str, ...]
) -> None:
    config = small(f"phase1.optimizer={optimizer}", "dynamics.layers=4", *more)
    planned, real = measure(config, 1, backend, is_gpu=False, shards=4).used, real_peak(config, backend, 4)
    print(f"planned {planned / 2**20:.2f} MiB, real {real / 2**20:.2f} MiB, {planned / real:.3f}")
    assert planned == pytest.approx(real, rel=0.05)
    assert not dist.is_initialized()


def test_weights_and_optimiser_are_divided_by_the_ranks(small: Small) -> None:
    config = small("phase1.optimizer=adamw", "dynamics.layers=4")
    whole, parts = (measure(config, 1, FP32, is_gpu=True, shards=ranks).parts for ranks in (1, 8))
    with torch.device("meta"):
        world = WorldModel.build(config, action_space(config.data.env).sizes)
    blocks = 4 * sum(p.numel() for p in world.transformer.blocks.parameters())
    for name, times in (("parameters", 1), ("average", 1), ("optimizer", 2)):
        assert whole[name] - parts[name] == pytest.approx(times * blocks * 7 / 8, rel=0.01)
    assert parts["communication"] > 0 and whole["communication"] == 0


@pytest.mark.slow
def test_the_preset_for_eight_gpus_fits_sharded_and_not_whole() -> None:
    config = load_config("minerl_cosmos_8x80gb")
    with torch.device("meta"):
        world = WorldModel.build(config, action_space(config.data.env).sizes)
    assert sum(p.numel() for p in world.parameters()) > 4e9 and config.dynamics.dim // config.dynamics.heads == 128
    budget = named_gpu(config, "h100")
    for number in (1, 2, 3):
        own = of_one_rank(config, number, 8)
        assert Planner(own, number, budget, 2**29, 8, config.ranks.shard).configured().fits
    assert Planner(of_one_rank(config, 1, 8), 1, budget, 2**29, 8).change() is None


def test_train_refuses_what_only_a_sharded_rank_could_hold(small: Small) -> None:
    settings = ("dynamics.layers=4", "dynamics.dim=256", "precision=fp32", "forcing.boot_fraction=0")
    config = replace(small(*settings), memory_gb=0.115)  # 103 MiB are for the run
    ranks = replace(FP32, ranks=Pretend(0, 6))
    own = of_one_rank(config, 1, 6)
    with pytest.raises(UserError, match=r"phase1 plans .* with 1 crop at once, .*: ranks.shard=true.* would plan"):
        RunMemory().settle(own, 1, ranks, 0)
    sharded = replace(own, ranks=replace(own.ranks, shard=True))
    assert RunMemory().settle(sharded, 1, ranks, 0).phase1.micro_batch == 1


def test_a_preset_that_is_to_be_sharded_is_refused_by_one_process(small: Small) -> None:
    config = replace(small("precision=fp32", "ranks.shard=true"), memory_gb=0.001)
    with pytest.raises(UserError, match="lower dynamics.dim or dynamics.layers, or start more ranks than 1 "):
        RunMemory().settle(config, 1, FP32, 0)


def test_the_command_plans_one_rank_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "--config", "debug", "--phase", "1", "--gpus", "2")
    assert cli.main([*words, "--shard"]) == 0
    said = capsys.readouterr().out
    assert "2 ranks, each shards the blocks and takes 2 of 4 rows; it would fit whole too" in said
    assert "weights gathered, sums in transit" in said
    assert cli.main(list(words)) == 0
    assert "2 ranks, each holds the whole model and takes 2 of 4 rows\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gpus 0", "--gpus 0 is no number of GPUs from 1 to 1024"),
        ("--gpus eight", "--gpus eight is no number of GPUs"),
        ("--gpus 8..4", "--gpus 8..4 is no number of GPUs"),
        ("--gpus 5", "phase1.batch_size is 4, which 5 ranks cannot share: make it 5 at least"),
        ("--gpus 3 --shard", "phase1.batch_size is 4, which 3 ranks cannot share: make it a multiple of 3"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--config", "debug", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1

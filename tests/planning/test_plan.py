"""Budgets, the search over settings, and what is proposed where a phase does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fastdreamer.config import Config, TrainConfig, load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.tools.planning.gpus import GIB, GPUS_MIB, Budget, default_budget, named_gpu, parse_size, sized_gpu
from fastdreamer.tools.planning.plan import Plan, Planner, change_of
from fastdreamer.tools.planning.run_memory import encode_rows, refusal, store_share

MIB = 2**20
CPU = Backend(torch.device("cpu"), "bf16")
Small = Callable[..., Config]


class Affine(Planner):
    """100 MiB, 10 more a row at once (3 where they are recomputed), 1 for each of the batch; the store besides."""

    measured = 0

    def _measured(self, train: TrainConfig) -> Plan:
        self.measured += 1
        rows = {"activations": train.micro_batch * (3 if train.recompute else 10) + 100 + train.batch_size}
        rows = {name: size * MIB for name, size in rows.items()} | {"store": self.store_bytes}
        return Plan(self.number, train, rows, self.budget.limit, 0)


def planner(small: Small, limit_mib: int, *overrides: str, store_mib: int = 0, number: int = 1) -> Affine:
    budget = Budget("a GPU", 2 * limit_mib * MIB, limit_mib * MIB, CPU)
    return Affine(small("phase1.batch_size=32", *overrides), number, budget, store_mib * MIB)


@pytest.mark.parametrize(
    ("limit", "at_once"), [(1000, 32), (452, 32), (451, 16), (292, 16), (291, 11), (152, 2), (142, 1)]
)
def test_the_largest_pieces_that_fit_are_taken(small: Small, limit: int, at_once: int) -> None:
    found = planner(small, limit)
    plan = found.configured()
    assert plan.fits and plan.at_once == at_once and plan.train.batch_size == 32
    assert found.measured <= 6


def test_pieces_that_were_asked_for_are_kept_and_recomputing_is_never_switched_on_unasked(small: Small) -> None:
    assert planner(small, 1000, "phase1.micro_batch=4").configured().at_once == 4
    plan = planner(small, 141).configured()
    assert not plan.fits and (plan.at_once, plan.train.recompute) == (1, False)


@pytest.mark.parametrize(
    ("limit", "overrides", "store", "words"),
    [
        (300, ("phase1.micro_batch=32",), 0, ["phase1.micro_batch=16"]),
        (141, (), 0, ["phase1.recompute=true"]),
        (141, ("phase1.micro_batch=8",), 0, ["phase1.micro_batch=3", "phase1.recompute=true"]),
        (200, (), 64, ["phase1.recompute=true"]),
        (160, (), 64, ["phase1.recompute=true", "data.resident=ram"]),
        (115, (), 0, ["phase1.recompute=true", "phase1.batch_size=8", "phase1.accumulate=4"]),
        (100, (), 64, None),
    ],
)
def test_what_changes_least_is_proposed_first(
    small: Small, limit: int, overrides: tuple[str, ...], store: int, words: list[str] | None
) -> None:
    found = planner(small, limit, *overrides, store_mib=store)
    assert not found.configured().fits
    change = found.change()
    if words is None:
        assert change is None
        assert refusal(found, found.configured()).endswith("lower dynamics.dim or dynamics.layers")
        return
    assert change is not None and change.fits and change_of(found.train, change) == words
    effective = change.train.batch_size * change.train.accumulate
    assert effective == 32
    said = refusal(found, found.configured())
    assert " ".join(words) in said and "\n" not in said


def test_phases_without_a_backward_pass_through_the_transformer_are_not_told_to_recompute(small: Small) -> None:
    found = planner(small, 111, "phase3.batch_size=32", number=3)
    change = found.change()
    assert change is not None and not change.train.recompute and change.train.accumulate > 1
    assert planner(small, 400, number=2)._recomputes is False
    tokens = ("heads.readout=agent_tokens", "dynamics.agent_tokens=1")
    assert planner(small, 400, *tokens, number=2)._recomputes is True


def test_room_is_how_many_would_fit_at_once(small: Small) -> None:
    found = planner(small, 2000, "phase3.batch_size=32", number=3)
    most = found.room().at_once
    assert 0.97 * 172 <= most <= 172  # 100 + 11 n MiB
    assert found.measured <= 8


@pytest.mark.parametrize("text", ["12GiB", "12 gib", "12", "12288MiB", "12288 mib"])
def test_sizes_are_read(text: str) -> None:
    assert parse_size(text) == 12 * GIB
    assert parse_size("11.5GB") == 11_500_000_000


@pytest.mark.parametrize("text", ["", "12TiB", "GiB", "-3GiB", "0GiB", "1e3", "12 GiB each"])
def test_what_is_no_size_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(UserError, match="is no size: give a number above 0") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("rtx-3060", "rtx-3060"),
        ("RTX 3060", "rtx-3060"),
        ("3060", "rtx-3060"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("4060ti16gb", "rtx-4060-ti-16gb"),
        ("H100", "h100-80gb"),
        ("a100 80GB", "a100-80gb"),
    ],
)
def test_cards_are_found_by_their_usual_names(name: str, gpu: str) -> None:
    budget = named_gpu(load_config("debug"), name)
    assert (budget.name, budget.memory) == (gpu, GPUS_MIB[gpu] * MIB)
    assert budget.limit == int(0.875 * budget.memory)
    with pytest.raises(UserError, match=r"unknown GPU 'rtx-3061'; did you mean rtx-3060\?"):
        named_gpu(load_config("debug"), "rtx-3061")


def test_twelve_gibibytes_are_the_default_and_leave_ten_and_a_half() -> None:
    budget = default_budget(load_config("minerl_cosmos"))
    if not torch.cuda.is_available():
        assert (budget.memory, budget.limit) == (12 * GIB, 10.5 * GIB)
    assert default_budget(load_config("minerl_cosmos", ["memory_gb=8"])).memory == 8 * GIB
    assert sized_gpu(load_config("debug", ["precision=fp32"]), "8").backend.precision == "fp32"


def test_the_store_counts_where_it_would_lie(small: Small) -> None:
    gpu = sized_gpu(small(), "12GiB")
    cpu = replace(gpu, is_gpu=False)
    limit = "data.card_limit_gb=0.5"
    assert store_share(small(limit), gpu, None) == GIB // 2
    assert store_share(small(limit), gpu, 1000) == 1000
    assert store_share(small(limit), gpu, GIB) == 0
    assert store_share(small(limit, "data.resident=card"), gpu, GIB) == GIB
    assert store_share(small("data.resident=ram"), gpu, 1000) == store_share(small(), cpu, 1000) == 0


def test_encode_has_the_encoder_and_its_largest_call() -> None:
    config = load_config("minerl_cosmos")
    rows = encode_rows(config, sized_gpu(config, "12GiB"))
    assert rows["encoder weights (16 bits)"] == pytest.approx(2 * 42.9e6, rel=0.01)
    assert rows["activations of 16 windows"] == pytest.approx(1.97 * GIB, rel=0.05)
    assert sum(rows.values()) < 10.5 * GIB
    more = load_config("minerl_cosmos", ["engines.memory_gb=8", "engines.precision=fp32"])
    assert "activations of 33 windows" in encode_rows(more, sized_gpu(more, "12GiB"))


PRESETS = {"minerl_cosmos": "12", "minerl_cosmos_16gb": "16", "minerl_cosmos_24gb": "24", "minerl_cosmos_80gb": "h100"}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_for_larger_cards_have_larger_dynamics_with_heads_of_64_or_128(preset: str) -> None:
    config = load_config(preset)
    with torch.device("meta"):
        world = WorldModel.build(config, action_space(config.data.env).sizes)
    sizes = {
        "minerl_cosmos": 100e6,
        "minerl_cosmos_16gb": 170e6,
        "minerl_cosmos_24gb": 340e6,
        "minerl_cosmos_80gb": 1e9,
    }
    assert sum(p.numel() for p in world.parameters()) >= sizes[preset]
    assert config.dynamics.dim // config.dynamics.heads in (64, 128)
    assert not any(config.phase(n).micro_batch for n in (1, 2, 3))


def fits(preset: str, number: int) -> None:
    config = load_config(preset)
    size = PRESETS[preset]
    budget = named_gpu(config, size) if size.startswith("h") else sized_gpu(config, size)
    plan = Planner(config, number, budget, store_share(config, budget, None)).configured()
    assert plan.fits and plan.rows["store"] == GIB // 2
    assert plan.reserved >= plan.rows["parameters"] + plan.rows["optimizer"] > 0


def test_phase_one_of_the_preset_for_twelve_gigabytes_fits() -> None:
    fits("minerl_cosmos", 1)


LARGE = [
    pytest.param(name, marks=pytest.mark.slow if name == "minerl_cosmos" else pytest.mark.long) for name in PRESETS
]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("preset", LARGE)
def test_every_phase_of_every_preset_fits_its_card(preset: str, number: int) -> None:
    fits(preset, number)

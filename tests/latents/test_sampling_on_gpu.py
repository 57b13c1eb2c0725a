"""On a GPU: the store lies there, batches are cut there or come from pinned memory, and are those of the CPU."""

from __future__ import annotations

import time
from dataclasses import fields

import pytest
import torch
from latents.episodes import CLOCK, MIXED, equal, mixed, sampler

from fastdreamer.config import SamplingConfig
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.loader import Loader

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def test_a_card_holds_the_store_and_cuts_the_same_batches() -> None:
    def lying(device: torch.device) -> CropSampler:
        return CropSampler(mixed(), CLOCK, 4, 8, 0, sampling=SamplingConfig(**MIXED), device=device)

    plain = lying(CPU)
    gpu = torch.device("cuda", torch.cuda.current_device())
    resident = lying(gpu)
    for number in range(20):
        batch = resident.batch(number)
        assert all(getattr(batch, f.name).device == gpu for f in fields(Batch))
        assert equal(batch.to(CPU), plain.batch(number))


def test_a_draw_from_the_card_does_not_wait_for_what_the_card_has_to_do() -> None:
    """Rows are numbered on the host, in memory that is not page-locked: the driver may wait before it copies them."""
    gpu = torch.device("cuda", torch.cuda.current_device())
    resident = CropSampler(mixed(), CLOCK, 4, 8, 0, sampling=SamplingConfig(**MIXED), device=gpu)
    resident.batch(0)
    torch.cuda.synchronize()
    began = time.perf_counter()
    torch.cuda._sleep(4_000_000_000)  # some seconds
    resident.batch(1)
    drawn = time.perf_counter() - began
    torch.cuda.synchronize()
    assert drawn < (time.perf_counter() - began) / 2


@pytest.mark.parametrize("ahead", [0, 2])
def test_batches_reach_the_card_from_pinned_memory(ahead: int) -> None:
    with Loader(sampler(mixed(), **MIXED), torch.device("cuda"), ahead) as loader:
        assert loader._make(0).latents.is_pinned()
        for number in range(20):
            assert equal(loader.draw().to(CPU), loader.sampler.batch(number))

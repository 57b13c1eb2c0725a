"""From file to encoder input on a CUDA GPU, against PyAV + torch on the CPU. Runs with make gpu; parts need DALI."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastdreamer.tokenizer.resample import Resampler, TorchResampler

GPU, CPU = torch.device("cuda"), torch.device("cpu")
MIB = 2**20
LEVEL = 2 / 255  # one of 256 levels, in [-1, 1]
HALF = {"fp32": 0.0, "fp16": 2.0**-12, "bf16": 2.0**-9}  # rounding at 1
SIZES = [(64, 64, 256), (360, 640, 256), (50, 70, 64), (16, 16, 256), (64, 64, 64)]

pytestmark = pytest.mark.gpu


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def compare(given: Resampler, windows: Tensor, size: int, precision: str) -> None:
    images = given(windows)
    expected = TorchResampler(size, "fp32", CPU)(windows.cpu())
    assert images.is_cuda and images.is_contiguous() and images.shape == expected.shape
    assert (images.float().cpu() - expected).abs().max() <= LEVEL + HALF[precision]


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_torch_resamples_on_the_card_as_on_the_cpu(height: int, width: int, size: int, precision: str) -> None:
    compare(TorchResampler(size, precision, GPU), noise(2, 5, height, width), size, precision)


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_dali_resamples_on_the_card_as_torch_on_the_cpu(height: int, width: int, size: int, precision: str) -> None:
    pytest.importorskip("nvidia.dali")
    from fastdreamer.tokenizer.dali import DaliResampler

    dali = DaliResampler(size, precision, GPU, batch=2)
    for batch, frames in ((2, 33), (1, 1), (3, 5)):
        windows = noise(batch, frames, height, width)
        compare(dali, windows, size, precision)
        compare(dali, windows.to(GPU), size, precision)


def test_a_kept_result_lives_and_a_dropped_one_is_not_reused_too_early() -> None:
    pytest.importorskip("nvidia.dali")
    from fastdreamer.tokenizer.dali import DaliResampler

    dali, windows = DaliResampler(256, "fp16", GPU), noise(4, 33, 64, 64).to(GPU)
    kept, copy = dali(windows), TorchResampler(256, "fp32", GPU)(windows)
    levels = []
    for turn in range(50):
        images = dali(torch.full_like(windows, 5 * turn))
        torch.cuda._sleep(5_000_000)  # the sum is still to come when the result is dropped and the next one is made
        levels.append(images.float().sum(dtype=torch.float64) / images.numel())
        del images
    assert (kept.float() - copy).abs().max() <= LEVEL
    found = (torch.stack(levels).cpu() + 1) * 127.5
    assert (found - 5 * torch.arange(50)).abs().max() < 0.2


def recording(path: Path, size: tuple[int, int], frames: int) -> Path:
    pytest.importorskip("av")
    from bench.suites.data_path import write_video

    write_video(path, frames, *size)
    return path


def test_frames_decoded_on_the_cpu_are_resampled_on_the_card(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.mp4", (64, 64), 99)
    from fastdreamer.recordings.decode import decode_video

    frames = torch.from_numpy(decode_video(path))
    compare(TorchResampler(256, "fp16", GPU), frames.unflatten(0, (3, 33)), 256, "fp16")


@pytest.mark.parametrize("size", [(64, 64), (640, 360)])
def test_nvdec_and_dali_give_pyavs_frames_in_order(tmp_path: Path, size: tuple[int, int]) -> None:
    pytest.importorskip("nvidia.dali")
    path = recording(tmp_path / "a.mp4", size, 500)
    from fastdreamer.recordings.decode import decode_video
    from fastdreamer.tokenizer.dali import DaliResampler, can_nvdec, nvdec_blocks

    assert can_nvdec(path) == ""
    expected = torch.from_numpy(decode_video(path))
    blocks = list(nvdec_blocks(path, 64, GPU))  # a plain cuda, as a run's tokenizer has
    assert [len(block) for block in blocks] == [64] * 7 + [52] and all(block.is_cuda for block in blocks)
    found = torch.cat(blocks).cpu()
    # The same numbers come out of H.264; only colours are interpolated differently on the way to RGB.
    errors = (found.float() - expected.float()).abs().mean((1, 2, 3))
    shifted = (found[1:].float() - expected[:-1].float()).abs().mean((1, 2, 3))
    assert errors.max() < 3 and (shifted > 2 * errors[1:]).all()
    windows = blocks[0][None, :33]
    compare(DaliResampler(256, "fp16", GPU), windows, 256, "fp16")


def test_files_that_are_decoded_at_once_are_those_decoded_alone(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from fastdreamer.tokenizer.dali import nvdec_blocks

    sizes = [(64, 64), (96, 64), (128, 96), (640, 360)] * 2
    paths = [recording(tmp_path / f"{i}.mp4", size, 150 + 10 * i) for i, size in enumerate(sizes)]

    def decoded(path: Path) -> Tensor:
        return torch.cat(list(nvdec_blocks(path, 32, GPU)))

    alone = [decoded(path) for path in paths]
    with ThreadPoolExecutor(4) as threads:
        for expected, found in zip(alone, threads.map(decoded, paths), strict=True):
            assert torch.equal(found, expected)


def outside() -> int:
    """Bytes of the GPU that others than torch's allocator have taken."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def test_a_file_more_takes_no_more_of_the_card(tmp_path: Path) -> None:
    """DALI keeps up to a hundred decoders, and uses one again where sizes are equal; VPT's are coded as 640 x 368."""
    pytest.importorskip("nvidia.dali")
    path = recording(tmp_path / "a.mp4", (640, 360), 40)
    from fastdreamer.tokenizer.dali import nvdec_blocks

    taken = []
    for count in (5, 20):
        for _ in range(count):
            assert sum(map(len, nvdec_blocks(path, 40, GPU))) == 40
        taken.append(outside())
    assert (taken[1] - taken[0]) / 20 <= 8 * MIB, f"{(taken[1] - taken[0]) / 20 / MIB:.1f} MiB a file"


def test_what_dali_takes_of_the_card_does_not_grow() -> None:
    pytest.importorskip("nvidia.dali")
    from fastdreamer.tokenizer.dali import DaliResampler

    dali, windows, before = DaliResampler(256, "fp32", GPU), noise(8, 33, 64, 64), outside()
    taken = []
    for count in (3, 30):
        for _ in range(count):
            dali(windows).sum().item()  # waits, as the copy of an encoder's latents does
        taken.append((outside() - before) / (4 * 3 * 8 * 33 * 256**2))
    # The plan counts two buffers of what is made; the operators between have theirs for a while.
    assert taken[0] <= 4 and taken[1] <= taken[0] + 0.1, f"{taken} buffers of what is made"


def test_nvdec_leaves_out_what_an_edit_list_hides(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    av = pytest.importorskip("av")
    plain, path = recording(tmp_path / "plain.mp4", (64, 64), 120), tmp_path / "hidden.mp4"
    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                shift = int(33 / 20 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                writer.mux(packet)
    from fastdreamer.recordings.decode import decode_video
    from fastdreamer.tokenizer.dali import nvdec_blocks

    expected, found = torch.from_numpy(decode_video(path)), torch.cat(list(nvdec_blocks(path, 32))).cpu()
    assert found.shape == expected.shape and len(found) == 87
    assert (found.float() - expected.float()).abs().mean((1, 2, 3)).max() < 3

"""Right frame for right action: barcode videos of every kind through `encode` to the store, on every path.

The encoder is a stand-in that reads the barcodes off its input, as it comes from decoding and resampling, and writes
the numbers into its latents; so each step of the store says which frames it was made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoding.test_stream import gpu
from torch import Tensor
from torch.nn import functional as F

from fastdreamer.config import Config, DataConfig, TokenizerConfig
from fastdreamer.encoding import pipeline as encode_module
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.encoding.stream import Streamer
from fastdreamer.errors import UserError
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.recordings import minerl
from fastdreamer.shapes import LatentClock
from fastdreamer.tokenizer.frozen import FrozenTokenizer, eager_spec
from recordings.fixtures import FIXTURES, row_of
from recordings.video_fixtures import write_video
from recordings.vpt_fixtures import row_of_vpt, vpt_line, write_vpt_recording

CLOCKS = {
    "c8": TokenizerConfig(weights="random", frames_per_latent=8, window=33, image_size=128, pool=4),
    "c1": TokenizerConfig(weights="random", frames_per_latent=1, window=1, image_size=64, pool=2),
}
SMALL = {"encoder_channels": (8,) * 4, "decoder_channels": (8,) * 4}
PATHS = ("pyav-torch", "pyav-dali", "gpu-torch", pytest.param("nvdec-dali", marks=pytest.mark.gpu))


class Reader:
    """The stand-in encoder: frames 64 pixels wide, enlarged or not, to the two bytes of their numbers."""

    name, precision = "barcode reader", "fp32"

    def __init__(self, config: TokenizerConfig) -> None:
        self.spec = eager_spec(config, "encoder")
        self.side = config.image_size // 8

    def run(self, clips: Tensor) -> Tensor:
        blocks = F.adaptive_avg_pool3d(clips.float(), (clips.shape[2], 8, 8)).mean(1)  # (b, t, 8, 8)
        bits = (blocks[:, :, :2].flatten(2) > 0).long()
        number = (bits << torch.arange(16, device=clips.device)).sum(-1)
        pairs = torch.stack([number >> 8, number & 255], -1).float()  # (b, t, 2)
        if clips.shape[2] == 1:
            steps = F.pad(pairs, (0, 14))
        else:
            first = F.pad(pairs[:, :1], (0, 14))
            steps = torch.cat([first, pairs[:, 1:].unflatten(1, (-1, 8)).flatten(2)], 1)
        return steps.transpose(1, 2)[..., None, None].expand(-1, -1, -1, self.side, self.side)


@cache
def tokenizer(clock: str, device: str) -> FrozenTokenizer:
    config = replace(CLOCKS[clock], **SMALL)
    made = FrozenTokenizer.from_config(config, device)
    made.encoder = Reader(config)  # type: ignore[assignment]
    return made


def encode(recordings: Path, store: Path, clock: str, path: str, **settings: Any) -> None:
    data = DataConfig(**{"env": "minerl_treechop", "max_damaged": 1, **settings}, resampler=path.partition("-")[2])
    device = "cuda" if path.startswith("nvdec") else "cpu"
    config = Config(device=device, tokenizer=tokenizer(clock, device).config, data=data)
    encode_recordings(config, recordings, store, tokenizer(clock, device))


def shown(episode: Episode, clock: LatentClock) -> np.ndarray:
    """The numbers of the frames that each step of an episode was made of."""
    latents = episode.latents.float()
    assert torch.equal(latents, latents[:, :1].expand_as(latents)), "tokens of a step differ"
    pairs = latents[:, 0].unflatten(-1, (8, 2)).long()
    numbers = (pairs[..., 0] << 8) + pairs[..., 1]  # (l, 8)
    flat = numbers[:, 0] if clock.window == 1 else torch.cat([numbers[:1, 0], numbers[1:].flatten()])
    return flat[: episode.length].numpy()


def misaligned(store: Path, first: int) -> int:
    """How many frames or rows of the store's one episode are not those of their place."""
    opened = LatentStore.open(store)
    (episode,) = opened.episodes
    assert len(episode.actions) == episode.length - 1 >= 120
    frames, rows = np.arange(episode.length), np.arange(episode.length - 1)
    wrong = (shown(episode, opened.clock) != first + frames).sum()
    return int(wrong + (row_of(episode.actions.numpy()) != rows).sum())


def decoded_as_expected(entry: dict[str, Any], path: str) -> bool:
    """A real GPU may leave a file to PyAV, if it says why, and not because DALI failed."""
    if path.startswith("nvdec"):
        return entry["decoder"] == "nvdec" or "DALI cannot decode" not in entry["by_pyav"]
    return bool(entry["decoder"] == ("nvdec" if path.startswith("gpu") else "pyav"))


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One way from file to encoder; the GPU's decoder is a stand-in that also shows what edit lists hide."""
    name: str = request.param
    if name.endswith("dali"):
        pytest.importorskip("nvidia.dali")
    if name.startswith("gpu"):

        def streamer(config: Config, opened: FrozenTokenizer) -> Streamer:
            return Streamer(opened.clock, opened.windows_at_once, lambda file, block: gpu(file, block, hidden=2))

        monkeypatch.setattr(encode_module, "_streamer", streamer)
    return name


@pytest.mark.parametrize("name", [name for name, fixture in FIXTURES.items() if not fixture.refusal])
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_every_row_has_its_frame(tmp_path: Path, name: str, clock: str, path: str) -> None:
    FIXTURES[name].write(tmp_path / "recordings")
    encode(tmp_path / "recordings", tmp_path / "store", clock, path)
    assert misaligned(tmp_path / "store", FIXTURES[name].first) == 0
    manifest = LatentStore.open(tmp_path / "store").manifest
    (entry,) = manifest["episodes"].values()
    assert manifest["key"]["resampler"] == path.partition("-")[2]
    assert decoded_as_expected(entry, path)


@pytest.mark.parametrize("name", [name for name, fixture in FIXTURES.items() if fixture.refusal])
@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_what_cannot_be_aligned_is_refused_by_name(tmp_path: Path, name: str, path: str) -> None:
    folder = FIXTURES[name].write(tmp_path / "recordings")
    with pytest.raises(UserError, match=f"{folder.name}: .*{FIXTURES[name].refusal}"):
        encode(tmp_path / "recordings", tmp_path / "store", "c8", path)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_a_shift_of_one_frame_is_seen(
    tmp_path: Path, clock: str, path: str, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Callable = minerl.MineRLLabels.align

    def shifted(labels: minerl.MineRLLabels, visible: int) -> object:
        aligned = plain(labels, visible)
        return replace(aligned, picked=np.clip(aligned.picked + shift, 0, visible - 1))

    monkeypatch.setattr(minerl.MineRLLabels, "align", shifted)
    FIXTURES["odd-extra"].write(tmp_path / "recordings")
    encode(tmp_path / "recordings", tmp_path / "store", clock, path)
    assert misaligned(tmp_path / "store", FIXTURES["odd-extra"].first) >= 120


def gui(lines: list[Any]) -> None:
    for line in lines[30:60]:
        line["isGuiOpen"] = True


def some_null(lines: list[Any]) -> None:
    for row in (0, 5, 6, 7, 60, 128):
        lines[row] = vpt_line()


# Lines, frames, which rows stay, how the lines are changed, settings.
VPT_KINDS: dict[str, tuple[int, int, list[int], Any, dict[str, Any]]] = {
    "equal": (130, 130, list(range(129)), None, {}),
    "more lines": (135, 130, list(range(129)), None, {}),
    "more frames": (130, 135, list(range(129)), None, {}),
    "a window open": (130, 130, list(range(129)), gui, {}),
    "null left out": (
        130,
        130,
        [i for i in range(129) if i not in (0, 5, 6, 7, 60, 128)],
        some_null,
        {"skip_null": True},
    ),
}


@pytest.mark.parametrize("kind", VPT_KINDS)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_every_line_of_vpt_has_its_frame(tmp_path: Path, kind: str, clock: str, path: str) -> None:
    lines, frames, rows, change, settings = VPT_KINDS[kind]
    write_vpt_recording(tmp_path / "recordings", lines, frames, change=change or (lambda lines: None))
    encode(tmp_path / "recordings", tmp_path / "store", clock, path, env="vpt", **settings)
    opened = LatentStore.open(tmp_path / "store")
    (episode,) = opened.episodes
    names = [component.name for component in opened.space.components]
    assert row_of_vpt(episode.actions.numpy(), names) == rows
    assert shown(episode, opened.clock).tolist() == [*rows, 129]
    assert episode.labelled and not episode.rewarded
    (entry,) = opened.manifest["episodes"].values()
    assert decoded_as_expected(entry, path if change is not gui else "pyav")
    assert ("cursor" in entry.get("by_pyav", "")) == (change is gui and not path.startswith("pyav"))
    assert ("mended" in entry) == (lines != frames)


@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_video_without_actions_stands_beside_recordings(tmp_path: Path, path: str) -> None:
    FIXTURES["edit-list"].write(tmp_path / "recordings")
    (tmp_path / "recordings" / "walks").mkdir()
    write_video(tmp_path / "recordings" / "walks" / "walk.mp4", 50)
    encode(tmp_path / "recordings", tmp_path / "store", "c8", path)
    opened = LatentStore.open(tmp_path / "store")
    walk, play = sorted(opened.episodes, key=lambda episode: episode.labelled)
    assert (walk.labelled, walk.rewarded, play.labelled, play.rewarded) == (False, False, True, True)
    assert shown(walk, opened.clock).tolist() == list(range(50)) and (walk.actions.numpy() == opened.space.noop).all()
    assert shown(play, opened.clock).tolist() == list(range(7, 7 + play.length))


def test_the_clocks_are_those_of_the_project() -> None:
    assert [CLOCKS[name].clock for name in ("c8", "c1")] == [LatentClock(8, 33), LatentClock(1, 1)]

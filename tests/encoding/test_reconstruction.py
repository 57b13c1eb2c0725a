"""`inspect` says what the tokenizer keeps of the user's frames: right figures, a flag, and never a failure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recordings.fixtures import treechop_arrays, write_minerl_recording

from fastdreamer import cli
from fastdreamer.config import Config, EnginesConfig, TokenizerConfig
from fastdreamer.encoding import reconstruction
from fastdreamer.encoding.reconstruction import measure_reconstruction, render_reconstruction
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.tokenizer.frozen import FrozenTokenizer

MICRO = TokenizerConfig(weights="random", encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8))
TEMPORAL = replace(MICRO, frames_per_latent=4, window=9)
CONFIG = Config(device="cpu", tokenizer=MICRO)
STEPS = 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two readable recordings and one whose video is gone."""
    root = tmp_path_factory.mktemp("recordings")
    for number in range(3):
        folder = write_minerl_recording(root, treechop_arrays(STEPS), number=number, start=500 * number)
    (folder / "recording.mp4").write_bytes(b"")
    return root


def psnr(picture: torch.Tensor, original: torch.Tensor) -> float:
    return round(float(10 * torch.log10(1 / (picture - original).double().square().mean())), 2)


@pytest.mark.parametrize(("tokenizer", "steps"), [(TokenizerConfig(), 15), (TEMPORAL, 8), (TEMPORAL, 5)])
def test_the_figures_are_those_of_the_tokenizers_own_pictures(tmp_path: Path, tokenizer: TokenizerConfig, steps: int):
    """One recording as long as the window (or, the last one, shorter: its padding does not count)."""
    write_minerl_recording(tmp_path, treechop_arrays(steps))
    found = measure_reconstruction(tmp_path, replace(CONFIG, tokenizer=tokenizer), windows=1)
    (recording,) = find_recordings(tmp_path)
    frames = read_recording(recording, action_space("minerl_treechop")).frames
    frozen = FrozenTokenizer.from_config(tokenizer)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]
    original = clip.transpose(1, 2) / 255
    unpooled = frozen.decode_raw(frozen.encode_raw(clip, "btchw"))[:, :, : steps + 1]
    pooled = frozen.decode_pooled(frozen.encode(clip, "btchw"))[:, :, : steps + 1]
    expected = [psnr(picture, original) for picture in (unpooled, pooled, original.mean(2, keepdim=True))]
    assert [found["unpooled_db"], found["pooled_db"], found["mean_frame_db"]] == pytest.approx(expected, abs=0.011)
    assert tokenizer is TEMPORAL or abs(expected[0] - expected[1]) > 0.1  # random weights draw alike
    assert (found["windows"], found["frames"], found["image_size"]) == (1, steps + 1, 64)
    assert found["drop_db"] == pytest.approx(found["unpooled_db"] - found["pooled_db"], abs=0.011)
    assert json.loads(json.dumps(found)) == found


def test_windows_go_over_all_readable_recordings_and_come_from_the_seed(root: Path):
    found = measure_reconstruction(root, CONFIG, windows=5)
    assert (found["windows"], found["frames"]) == (5, 5 * 16)
    assert found == measure_reconstruction(root, CONFIG, windows=5)
    assert found != measure_reconstruction(root, CONFIG, windows=5, seed=1)
    drawn = list(reconstruction._draw(root, CONFIG, "auto", 2, 16, np.random.default_rng(0)))
    assert len({clip.mean() > 0 and tuple(clip[0, 0, ::8, 0]) for clip in drawn}) == 2


@pytest.mark.parametrize(("limit", "is_flagged"), [(-0.02, True), (0.02, False)])
def test_a_drop_beyond_the_limit_is_flagged(root: Path, monkeypatch: pytest.MonkeyPatch, limit: float, is_flagged):
    drop = measure_reconstruction(root, CONFIG, windows=1)["drop_db"]
    monkeypatch.setattr(reconstruction, "MAX_DROP", drop + limit)
    assert measure_reconstruction(root, CONFIG, windows=1)["pooling_too_aggressive"] is is_flagged


def rendered(**changes: Any) -> str:
    found = {"tokenizer": "x", "image_size": 256, "pool": 8, "frames": 64, "windows": 4, "unpooled_db": 30.0}
    found |= {"pooled_db": 20.0, "mean_frame_db": 18.0, "drop_db": 10.0, "pooling_too_aggressive": True}
    return render_reconstruction(found | changes)


def test_the_text_says_the_figures_and_the_way_out():
    text = rendered()
    assert "unpooled 30.0 dB, pooled 20.0 dB; each window's mean picture 18.0 dB" in text
    assert "pooling too aggressive: it costs 10.0 dB (more than 6)" in text
    assert "tokenizer.pool=4 tokenizer.image_size=128" in text and "fit-tokenizer" in text
    TokenizerConfig(pool=4, image_size=128)
    assert "too aggressive" not in rendered(drop_db=2.0, pooling_too_aggressive=False)
    assert "trained through the pool" in rendered(drop_db=-9.0, pooling_too_aggressive=False)


def test_missing_weights_and_unreadable_recordings_are_said_in_one_line(root: Path, tmp_path: Path):
    missing = replace(CONFIG, tokenizer=replace(MICRO, weights=str(tmp_path / "nowhere")))
    text = render_reconstruction(measure_reconstruction(root, missing))
    assert text.startswith("reconstruction not measured: ") and "nowhere" in text and "\n" not in text
    folder = write_minerl_recording(tmp_path, treechop_arrays(3))
    (folder / "recording.mp4").write_bytes(b"")
    assert measure_reconstruction(tmp_path, CONFIG) == {"not_measured": "no recording can be read"}


def test_an_engine_that_pools_inside_gives_way_to_the_eager_graph(root: Path, tmp_path: Path):
    engines = EnginesConfig(backend="aot-inductor", pool_inside=True, directory=str(tmp_path))
    found = measure_reconstruction(root, replace(CONFIG, engines=engines), windows=1)
    assert found["backend"] == "eager fp32 on cpu"


def test_the_filmstrip_shows_the_original_above_what_became_of_it(tmp_path: Path):
    write_minerl_recording(tmp_path, treechop_arrays(15))
    measure_reconstruction(tmp_path, CONFIG, windows=1, pictures=tmp_path / "new" / "strip.png")
    strip = np.asarray(Image.open(tmp_path / "new" / "strip.png"))
    frames = read_recording(find_recordings(tmp_path)[0], action_space("minerl_treechop")).frames
    assert strip.shape == (3 * 64, 8 * 64, 3)
    np.testing.assert_array_equal(strip[:64, :64], frames[0])
    np.testing.assert_array_equal(strip[:64, -64:], frames[-1])
    assert (strip[64:128] != strip[128:]).any()


OVERRIDES = ["device=cpu", "tokenizer.weights=random", "tokenizer.encoder_channels=[8,8,8]"]


def inspected(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, dict[str, Any]]:
    assert cli.main(["inspect", *words, "--json", *OVERRIDES, "tokenizer.decoder_channels=[8,8,8]"]) == 0
    text, _, line = capsys.readouterr().out.rstrip().rpartition("\n")
    return text, json.loads(line)


def test_inspect_measures_unless_told_not_to(root: Path, capsys: pytest.CaptureFixture[str]):
    text, result = inspected(capsys, str(root), "--reconstruct", "2")
    assert result["reconstruction"]["windows"] == 2 and "reconstruction by tokenizer random" in text
    assert inspected(capsys, str(root))[1]["reconstruction"]["windows"] == 4
    for words in (["--reconstruct", "0"], ["--no-decode"]):
        text, result = inspected(capsys, str(root), *words)
        assert "reconstruction" not in result and "reconstruction" not in text
    assert cli.main(["inspect", str(root), "--reconstruct", "-1"]) == 2
    assert "--reconstruct is -1" in capsys.readouterr().err

"""Fitting through the pool: it learns, the normalisation is exact, and the result is the usual folder."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Container, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdreamer.config import Config, TokenizerConfig, TokenizerFitConfig
from fastdreamer.errors import Stopped, UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.writer import write_recording
from fastdreamer.tokenizer.cosmos import WEIGHTS_FILE, build_random
from fastdreamer.tokenizer.fitting import fit
from fastdreamer.tokenizer.fitting.bottleneck import Bottleneck
from fastdreamer.tokenizer.fitting.fit import fit_tokenizer
from fastdreamer.tokenizer.frozen import FrozenTokenizer
from fastdreamer.tokenizer.preprocess import unpool

SPACE = action_space("crafter")
FIT = TokenizerFitConfig(steps=60, batch_size=4, learning_rate=3e-3, warmup_steps=5)


def _frames(seed: int, count: int) -> np.ndarray:
    """A bright square that moves over a background whose colour is the episode's."""
    rng = np.random.default_rng(seed)
    frames = np.broadcast_to(rng.integers(0, 120, 3, dtype=np.uint8), (count, 64, 64, 3)).copy()
    y, x = rng.integers(0, 48, 2)
    for t in range(count):
        frames[t, (y + t) % 48 :, :][:16, (x + 2 * t) % 48 :][:, :16] = 250
    return frames


def _write(root: Path, clips: Iterable[np.ndarray]) -> None:
    for seed, frames in enumerate(clips):
        none = np.zeros(39)
        trajectory = Trajectory(
            name=f"v3_test_crafter-{seed}_0-39",
            frames=frames,
            actions=none.astype(np.uint8)[:, None],
            rewards=none.astype(np.float32),
            terminals=none.astype(bool),
            valid=np.ones(40, bool),
        )
        write_recording(root / "Crafter-test" / trajectory.name, trajectory, SPACE, {})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recordings")
    _write(root, (_frames(seed, 40) for seed in range(6)))
    return root


def _config(c: int, **changes: object) -> Config:
    tokenizer = TokenizerConfig(
        weights="random",
        encoder_channels=(16,) * 4,
        decoder_channels=(16,) * 4,
        frames_per_latent=c,
        window=1 if c == 1 else 1 + 2 * c,
        patch_size=2 if c == 2 else 4,
    )
    fit = dataclasses.replace(FIT, **changes)
    return Config(device="cpu", precision="fp32", tokenizer=tokenizer, tokenizer_fit=fit)


def test_a_fitted_tokenizer_beats_mean_and_repeated_frame(recordings: Path, tmp_path: Path) -> None:
    config = _config(1, steps=150)
    card = fit_tokenizer(config, recordings, tmp_path / "out")
    psnr = card["psnr_db"]
    assert psnr["tokenizer"] > max(psnr["mean_frame"], psnr["first_frame_repeated"]) + 1
    assert json.loads((tmp_path / "out/card.json").read_text()) == card
    assert card["bytes"] == (tmp_path / "out" / WEIGHTS_FILE).stat().st_size
    assert card["train_frames"] + card["held_out_frames"] == 240
    for fact in ("fastdreamer fit-tokenizer", str(recordings), "tokenizer_fit.steps=150"):
        assert fact in card["command"]

    written = dataclasses.replace(config.tokenizer, weights=str(tmp_path / "out"))
    tokenizer = FrozenTokenizer.from_config(written)
    episodes = np.stack([_frames(seed, 40) for seed in range(6)])
    latents = torch.stack([tokenizer.encode_episode(episode) for episode in episodes])
    std, mean = torch.std_mean(latents.flatten(0, 2), 0)
    assert (mean.abs() < 0.35).all() and (std - 1).abs().max() < 0.35  # on all frames; exact on the fit's draws
    decoded = tokenizer.decode_pooled(latents)
    error = (decoded - torch.from_numpy(episodes).movedim(-1, 1) / 255).square().mean()
    assert abs(-10 * error.log10() - psnr["tokenizer"]) < 3  # the card's figure is what the loaded tokenizer does


@pytest.mark.parametrize("c", [2, 4, 8])
def test_every_ratio_can_be_fitted(recordings: Path, tmp_path: Path, c: int) -> None:
    config = _config(c, steps=12)
    card = fit_tokenizer(config, recordings, tmp_path / "out")
    assert all(np.isfinite(value) for value in card["psnr_db"].values())
    tokenizer = FrozenTokenizer.from_config(dataclasses.replace(config.tokenizer, weights=str(tmp_path / "out")))
    assert tokenizer.encode_episode(_frames(0, 40)).shape == (config.tokenizer.clock.steps(40), 16, 16)


def test_a_fit_is_repeatable(recordings: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        fit_tokenizer(_config(1, steps=3), recordings, tmp_path / name)
        files.append((tmp_path / name / WEIGHTS_FILE).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("c", [1, 2])
def test_encoder_and_decoder_learn(c: int) -> None:
    config = _config(c, steps=6)
    torch.manual_seed(0)
    bottleneck = Bottleneck(build_random(config.tokenizer), config.tokenizer)
    before = {name: value.clone() for name, value in bottleneck.model.named_parameters()}
    frames = torch.rand(2, 3, config.tokenizer.window, 64, 64) * 2 - 1
    fit.optimise(bottleneck, lambda: frames, config.tokenizer_fit, bf16=False)
    moved = {
        name.partition(".")[0] for name, value in bottleneck.model.named_parameters() if value.ne(before[name]).any()
    }
    assert {"encoder", "quant_conv", "decoder", "post_quant_conv"} <= moved


def test_too_little_to_fit_on_is_refused_and_nothing_is_written(recordings: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(_config(8), tokenizer=dataclasses.replace(_config(8).tokenizer, window=41))
    with pytest.raises(UserError, match="41 frames"):
        fit_tokenizer(config, recordings, tmp_path / "out")
    single = tmp_path / "single/Crafter-test"
    single.mkdir(parents=True)
    (single / "v3_one").symlink_to(sorted((recordings / "Crafter-test").iterdir())[0])
    with pytest.raises(UserError, match="1 usable episodes"):
        fit_tokenizer(_config(1), tmp_path / "single", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _spoil(monkeypatch: pytest.MonkeyPatch, steps: Container[int]) -> None:
    """Those steps of each descent see frames that are not finite."""
    real = fit._descend

    def descend(title: str, rates: object, loss_of: object, draw: Callable[[], torch.Tensor], *rest: object) -> None:
        numbers = itertools.count()
        real(title, rates, loss_of, lambda: draw() * (np.nan if next(numbers) in steps else 1.0), *rest)

    monkeypatch.setattr(fit, "_descend", descend)


@pytest.mark.parametrize("c", [1, 2])
def test_a_step_that_is_not_finite_is_left_out_and_said(
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    c: int,
) -> None:
    """One such step made every weight NaN, and the fit ended well."""
    _spoil(monkeypatch, {1})
    config = _config(c, steps=6)
    card = fit_tokenizer(config, recordings, tmp_path / "out")
    assert all(np.isfinite(value) for value in card["psnr_db"].values())
    tokenizer = FrozenTokenizer.from_config(dataclasses.replace(config.tokenizer, weights=str(tmp_path / "out")))
    assert tokenizer.encode_episode(_frames(0, 40)).isfinite().all()
    assert "1 of 3 steps left out" in (text := capsys.readouterr().out) or "1 of 6 steps left out" in text


def test_nothing_but_such_steps_stops_the_fit_and_writes_nothing(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, range(2, 99))
    with pytest.raises(Stopped, match=r"stopped at step 5: .* last 3 steps .*_fit\.learning_rate below 0\.003"):
        fit_tokenizer(_config(2, steps=12, max_skipped=3), recordings, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_half_precision_cannot_hold_are_not_written(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fit.round_to_half

    def grown(model: torch.nn.Module) -> None:
        model.decoder.conv_out.conv_s.weight.data.mul_(1e9)
        real(model)

    monkeypatch.setattr(fit, "round_to_half", grown)
    with pytest.raises(UserError, match=r"decoder\.conv_out\.conv_s\.weight is not finite in half precision"):
        fit_tokenizer(_config(2, steps=2), recordings, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("c", [1, 2])
def test_pictures_that_do_not_differ_are_refused_and_the_learning_rate_is_not_blamed(tmp_path: Path, c: int) -> None:
    """A screen that was recorded before the game began: every weight became NaN."""
    _write(tmp_path / "recordings", [_frames(0, 1).repeat(40, 0)] * 3)
    with pytest.raises(UserError, match="the pictures do not differ") as error:
        fit_tokenizer(_config(c, steps=4), tmp_path / "recordings", tmp_path / "out")
    assert "learning_rate" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["recordings"]


def test_unpooling_repeats_each_token_over_its_block() -> None:
    from fastdreamer_kernels import latent_pool

    pooled = torch.randn(2, 3, 16, 16)
    grid = unpool(pooled, 4, 2)
    assert grid.shape == (2, 16, 3, 8, 8)
    torch.testing.assert_close(latent_pool(grid, 2), pooled)
    assert torch.equal(grid[..., 0, 0], grid[..., 1, 1])

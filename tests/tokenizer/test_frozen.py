"""Frames to latents: clips, episodes by the window protocol, acting, and pictures back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from copies import Copies
from test_cosmos import SHAPES

from fastdreamer.config import TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.tokenizer.acting import ActingEncoder
from fastdreamer.tokenizer.frozen import FrozenTokenizer, tokenizer_fingerprint

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def _config(c: int) -> TokenizerConfig:
    return dataclasses.replace(SHAPES[c], image_size=4 * SHAPES[c].spatial_compression)


@pytest.fixture(scope="module", params=[1, 2, 4, 8])
def tokenizer(request: pytest.FixtureRequest) -> FrozenTokenizer:
    return FrozenTokenizer.from_config(_config(request.param))


def _episode(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 20, 20, 3), dtype=np.uint8)


def _clip(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames))[None].movedim(-1, 2)


def test_clips_become_sixteen_tokens_of_sixteen_channels(tokenizer: FrozenTokenizer) -> None:
    latents = tokenizer.encode(_clip(_episode(10)))
    assert latents.shape == (1, tokenizer.clock.steps(10), 16, 16)
    assert latents.dtype == torch.float32 and not latents.requires_grad


def test_the_result_may_be_used_under_autograd(tokenizer: FrozenTokenizer) -> None:
    latents = tokenizer.encode(_clip(_episode(2)))
    weight = torch.ones(16, requires_grad=True)
    (latents * weight).square().sum().backward()
    assert weight.grad is not None and not latents.is_inference()


def test_later_frames_do_not_change_earlier_latents(tokenizer: FrozenTokenizer) -> None:
    clock = tokenizer.clock
    frames = _episode(1 + 3 * clock.frames_per_latent)
    short = tokenizer.encode(_clip(frames[: 1 + 2 * clock.frames_per_latent]), "btchw")
    torch.testing.assert_close(tokenizer.encode(_clip(frames), "btchw")[:, :3], short, **EXACT)


@pytest.mark.parametrize("windows", [0, 1, 2.4])
def test_episodes_are_encoded_window_by_window(tokenizer: FrozenTokenizer, windows: float) -> None:
    clock = tokenizer.clock
    stride = max(1, clock.window - 1)
    frames = _episode(1 + int(windows * stride))
    sequence = tokenizer.encode_episode(frames)
    assert sequence.shape == (clock.steps(len(frames)), 16, 16)
    expected = [tokenizer.encode(_clip(frames[:1]))[0]]
    for start in range(0, len(frames) - 1, stride):
        window = tokenizer.encode(_clip(frames[start : start + stride + 1]))[0]
        expected.append(window[1:])  # a clip shorter than the window has the same latents: the encoder is causal
    torch.testing.assert_close(sequence, torch.cat(expected), **EXACT)


def test_chunks_do_not_change_latents(tokenizer: FrozenTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = _episode(3 * tokenizer.clock.window)
    whole = tokenizer.encode_episode(frames)
    monkeypatch.setattr(tokenizer, "chunk_bytes", 1)
    torch.testing.assert_close(tokenizer.encode_episode(frames), whole, **EXACT)


def test_acting_gives_the_latents_of_the_store(tokenizer: FrozenTokenizer) -> None:
    clock = tokenizer.clock
    c = clock.frames_per_latent
    steps = 2 * (clock.positions - 1) + 2  # past a window border, twice
    episodes = [_episode(1 + steps * c), _episode(1 + steps * c)[::-1]]
    stored = torch.stack([tokenizer.encode_episode(episode) for episode in episodes])
    batch = torch.from_numpy(np.stack(episodes))
    encoder = ActingEncoder(tokenizer, 2)
    for _ in range(2):  # a reset forgets the episode before
        latents = [encoder.reset(batch[:, 0])]
        positions = [encoder.position]
        for step in range(steps):
            latents.append(encoder.push(batch[:, 1 + step * c : 1 + (step + 1) * c]))
            positions.append(encoder.position)
        torch.testing.assert_close(torch.stack(latents, 1), stored, **EXACT)
        assert positions == [clock.position(step) for step in range(steps + 1)]


def test_pictures_come_back_in_size_and_range(tokenizer: FrozenTokenizer) -> None:
    size = tokenizer.config.image_size
    count = tokenizer.clock.window if tokenizer.clock.frames_per_latent > 1 else 3
    clip = _clip(_episode(count))
    raw = tokenizer.encode_raw(clip, "btchw")
    for decoded in (tokenizer.decode_raw(raw), tokenizer.decode_pooled(tokenizer.encode(clip, "btchw"))):
        assert decoded.shape == (1, 3, count, size, size)
        assert decoded.min() >= 0 and decoded.max() <= 1


def test_windows_for_a_cpu_are_there_before_they_are_read(tokenizer: FrozenTokenizer) -> None:
    frames = torch.from_numpy(_episode(tokenizer.clock.window))
    with Copies() as copies:
        tokenizer.encode_windows(frames)
    assert copies.ahead and not any(copies.ahead)


def test_the_fingerprint_tells_apart_whatever_changes_latents() -> None:
    base = _config(1)
    variants = [base, _config(2), _config(4), dataclasses.replace(base, seed=1)]
    variants += [dataclasses.replace(base, image_size=64, pool=2), dataclasses.replace(_config(4), window=5)]
    assert len({tokenizer_fingerprint(v) for v in variants}) == len(variants)
    assert FrozenTokenizer.from_config(base).fingerprint == tokenizer_fingerprint(base)


def test_sizes_that_do_not_give_sixteen_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="image_size must be 64"):
        FrozenTokenizer.from_config(dataclasses.replace(_config(1), image_size=60, pool=2))

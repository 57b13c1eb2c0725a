"""The tokenizer that ships with the package: small, honest about itself, and good enough on real play."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fastdreamer.config import TokenizerConfig
from fastdreamer.tokenizer.cosmos import EMBEDDED, WEIGHTS_FILE
from fastdreamer.tokenizer.frozen import FrozenTokenizer

CARD = json.loads((EMBEDDED / "card.json").read_text()) if (EMBEDDED / "card.json").exists() else None


@pytest.fixture(scope="module")
def play() -> np.ndarray:
    """Frames of random play in worlds that no recording used."""
    import crafter

    rng, frames = np.random.default_rng(0), []
    for seed in (900_001, 900_002):
        env = crafter.Env(seed=seed)
        frames.append(env.reset())
        for _ in range(60):
            frame, _, done, _ = env.step(int(rng.integers(17)))
            frames.append(frame)
            if done:
                break
    return np.stack(frames)


def test_it_ships_with_its_card_and_is_small() -> None:
    assert CARD is not None
    assert (EMBEDDED / WEIGHTS_FILE).stat().st_size == CARD["bytes"] < 4_000_000
    psnr = CARD["psnr_db"]
    assert psnr["tokenizer"] > max(psnr["mean_frame"], psnr["first_frame_repeated"]) + 8
    assert "fastdreamer fit-tokenizer" in CARD["command"] and CARD["recorded_by"] and "/tmp" not in json.dumps(CARD)


def test_pooled_latents_carry_real_play_in_unseen_worlds(play: np.ndarray) -> None:
    tokenizer = FrozenTokenizer.from_config(TokenizerConfig())
    latents = tokenizer.encode_episode(play)
    assert latents.shape == (len(play), 16, 16) and latents.isfinite().all()
    pictures = tokenizer.decode_pooled(latents.half().float()[None])[0].permute(1, 2, 3, 0)
    truth = torch.from_numpy(play).float() / 255
    psnr = -10 * (pictures - truth).square().mean().log10()
    mean = -10 * (truth.mean(0) - truth).square().mean().log10()
    first = -10 * (truth[:1] - truth).square().mean().log10()
    assert psnr > max(23.0, float(mean) + 6, float(first) + 6), (float(psnr), float(mean), float(first))


def test_raw_pooled_latents_have_unit_scale_on_play(play: np.ndarray) -> None:
    latents = FrozenTokenizer.from_config(TokenizerConfig()).encode_episode(play)
    assert 0.5 < latents.std() < 2 and latents.abs().max() < 30

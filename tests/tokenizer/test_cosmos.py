"""The Cosmos autoencoder at small sizes: building, the diffusers layout, and the single-frame copy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastdreamer.config import TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.tokenizer import cosmos
from fastdreamer.tokenizer.single_frame import fold_single_frame

MICRO = {"weights": "random", "encoder_channels": (8, 8, 8), "decoder_channels": (8, 8, 8), "image_size": 32, "pool": 1}
SHAPES = {
    1: TokenizerConfig(**MICRO),
    2: TokenizerConfig(**MICRO, frames_per_latent=2, window=5, patch_size=2, spatial_compression=4),
    4: TokenizerConfig(**MICRO, frames_per_latent=4, window=9),
    8: TokenizerConfig(
        **{**MICRO, "encoder_channels": (8,) * 4, "decoder_channels": (8,) * 4}, frames_per_latent=8, window=17
    ),
}


@pytest.mark.parametrize("c", SHAPES)
def test_every_ratio_gives_its_latents_and_its_frames_back(c: int) -> None:
    config = SHAPES[c]
    model = cosmos.load_autoencoder(config)
    frames = torch.rand(1, 3, config.window, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = model._encode(frames)
        decoded = model._decode(latents).sample
    side = 32 // config.spatial_compression
    assert latents.shape == (1, 16, config.clock.positions, side, side)
    assert decoded.shape == frames.shape
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_random_weights_depend_on_the_seed_alone_and_leave_the_global_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = cosmos.build_random(SHAPES[1]).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.randn(3)
    second = cosmos.build_random(SHAPES[1]).state_dict()
    other = cosmos.build_random(dataclasses.replace(SHAPES[1], seed=1)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_written_weights_are_read_back_exactly_and_strictly(tmp_path: Path) -> None:
    model = cosmos.build_random(SHAPES[1])
    cosmos.round_to_half(model)
    cosmos.write_autoencoder(model, tmp_path)
    config = dataclasses.replace(SHAPES[1], weights=str(tmp_path))
    read = cosmos.load_autoencoder(config)
    assert all(torch.equal(v, read.state_dict()[k]) for k, v in model.state_dict().items())
    assert {p.dtype for p in read.parameters()} == {torch.float32}

    other = dataclasses.replace(SHAPES[1], encoder_channels=(8, 16, 16))
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, **cosmos.architecture(other)}))
    with pytest.raises(UserError, match="do not fit"):
        cosmos.load_autoencoder(config)
    (tmp_path / cosmos.WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        cosmos.load_autoencoder(config)
    (tmp_path / cosmos.WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match="no config.json and weights"):
        cosmos.load_autoencoder(config)


def test_the_fingerprint_follows_weights_and_architecture(tmp_path: Path) -> None:
    model = cosmos.build_random(SHAPES[1])
    cosmos.write_autoencoder(model, tmp_path)
    config = dataclasses.replace(SHAPES[1], weights=str(tmp_path))
    before = cosmos.weights_fingerprint(config)
    model.quant_conv.bias.data.add_(1)
    cosmos.write_autoencoder(model, tmp_path)
    seeds = {cosmos.weights_fingerprint(dataclasses.replace(SHAPES[1], seed=seed)) for seed in (0, 1)}
    assert len({before, cosmos.weights_fingerprint(config), *seeds}) == 4
    (tmp_path / cosmos.WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        cosmos.weights_fingerprint(config)


def test_another_decoder_leaves_the_fingerprint_and_so_the_stores_alone(tmp_path: Path) -> None:
    model = cosmos.build_random(SHAPES[1])
    cosmos.write_autoencoder(model, tmp_path)
    config = dataclasses.replace(SHAPES[1], weights=str(tmp_path))
    before = cosmos.weights_fingerprint(config)
    model.decoder.conv_out.conv_s.bias.data.add_(1)
    cosmos.write_autoencoder(model, tmp_path)
    assert cosmos.weights_fingerprint(config) == before


def test_fingerprints_are_the_ones_that_stores_were_made_with(tmp_path: Path) -> None:
    settings = {"_diffusers_version": "1", "encoder_block_out_channels": [8], "decode_block_out_channels": [4]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    names = ("encoder.a", "quant_conv.bias", "decoder.a", "post_quant_conv.bias")
    tensors = {name: torch.arange(size, dtype=torch.float16) for size, name in enumerate(names, 1)}
    save_file(tensors, tmp_path / cosmos.WEIGHTS_FILE)
    config, random = TokenizerConfig(weights=str(tmp_path)), TokenizerConfig(weights="random")
    assert cosmos.weights_fingerprint(config) == "c9f3197161ed5504f4e5e7aa10ace58169967d80c34ed91fab2e5621d9e91b8b"
    assert cosmos.weights_fingerprint(random) == "c823999652957e42360bcf50e2bc7b40bded982b9ea1ad13a653beb6af42ad39"


def test_the_decoder_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    model = cosmos.build_random(SHAPES[1])
    config = dataclasses.replace(SHAPES[1], weights=str(tmp_path))
    seen = []
    for touched in (model.quant_conv, model.post_quant_conv, model.decoder.conv_out.conv_s):
        cosmos.write_autoencoder(model, tmp_path)
        seen.append(cosmos.weights_fingerprint(config, part="decoder"))
        touched.bias.data.add_(1)
    cosmos.write_autoencoder(model, tmp_path)
    seen.append(cosmos.weights_fingerprint(config, part="decoder"))
    assert seen[0] == seen[1] and len(set(seen)) == 3
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "encoder_block_out_channels": [1]}))
    assert cosmos.weights_fingerprint(config, part="decoder") == seen[-1]
    (tmp_path / "config.json").write_text(json.dumps({**settings, "decode_block_out_channels": [1]}))
    random = [dataclasses.replace(SHAPES[1], seed=seed) for seed in (0, 1)]
    seen += [cosmos.weights_fingerprint(c, part="decoder") for c in (config, *random)]
    assert len({*seen, *map(cosmos.weights_fingerprint, random)}) == 3 + 3 + 2


def test_missing_embedded_weights_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cosmos, "EMBEDDED", tmp_path)
    with pytest.raises(UserError, match="fastdreamer fit-tokenizer"):
        cosmos.load_autoencoder(TokenizerConfig())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"frames_per_latent": 2, "window": 5}, "patch_size 4 compresses more"),
        ({"spatial_compression": 16}, "needs 4"),
        ({"frames_per_latent": 8, "window": 9, "spatial_compression": 4}, "temporal stages"),
        ({"frames_per_latent": 8, "window": 9}, "encoder_channels has 3"),
    ],
)
def test_ratios_that_diffusers_would_build_wrongly_are_refused(changes: dict[str, int], word: str) -> None:
    with pytest.raises(UserError, match=word):
        cosmos.architecture(dataclasses.replace(SHAPES[1], **changes))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"frames_per_latent": 8, "window": 9}, "frames a latent step"), ({"spatial_compression": 4}, "in space")],
)
def test_weights_of_other_ratios_than_the_settings_are_refused(changes: dict[str, int], word: str) -> None:
    model = cosmos.build_random(SHAPES[1])
    with pytest.raises(UserError, match=word):
        cosmos.check_fits(model, dataclasses.replace(SHAPES[1], **changes))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_the_single_frame_copy_equals_the_network(patch: int) -> None:
    config = dataclasses.replace(SHAPES[1], patch_size=patch, encoder_channels=(8,) * 5, decoder_channels=(8,) * 5)
    model = cosmos.load_autoencoder(config).double()
    folded = fold_single_frame(model)
    frames = torch.rand(3, 3, 1, 32, 32, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        latents, decoded = model._encode(frames), model._decode(model._encode(frames)).sample
        torch.testing.assert_close(folded._encode(frames), latents, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(folded._decode(latents).sample, decoded, rtol=1e-5, atol=1e-6)


def test_training_the_single_frame_copy_trains_the_network() -> None:
    model = cosmos.build_random(SHAPES[1]).double()
    folded = fold_single_frame(model, trainable=True)
    frames = torch.rand(2, 3, 1, 32, 32, dtype=torch.float64) * 2 - 1
    (folded._decode(folded._encode(frames)).sample - frames).square().mean().backward()
    shared = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    (model._decode(model._encode(frames)).sample - frames).square().mean().backward()
    for name, parameter in model.named_parameters():
        if name in shared:
            torch.testing.assert_close(shared[name], parameter.grad, rtol=1e-4, atol=1e-7)
        else:  # on one frame attention over time does not depend on its query and key
            assert "temp_attentions" in name and ("to_q" in name or "to_k" in name)

"""Weights in NVIDIA's own layouts: `.pt`, `.jit` and two halves give the network that a diffusers folder gives."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from original_names import original_names, write_jit, write_layout
from torch import Tensor, nn

from fastdreamer.config import TokenizerConfig, load_config
from fastdreamer.errors import UserError
from fastdreamer.tokenizer import cosmos, layouts


def _config(width: int, channels: int, **changes: int) -> TokenizerConfig:
    blocks = (width,) * (channels - 2) + (2 * width,) * 2  # one block widens, and so has a shortcut
    return TokenizerConfig(weights="random", encoder_channels=blocks, decoder_channels=blocks, **changes)


CONFIGS = {
    "two levels": _config(4, 3, frames_per_latent=2, window=5, patch_size=2, spatial_compression=4),
    "three levels": _config(4, 4, frames_per_latent=8, window=17, layers=2),
    # At level 3 NVIDIA's networks of patch size 4 have attention (resolution 32 of 1024).
    "four levels with attention": _config(4, 5, frames_per_latent=4, window=9, spatial_compression=16),
}


def _model(config: TokenizerConfig) -> nn.Module:
    """Random everywhere, norms too, in values that bf16 holds."""
    model = cosmos.build_random(config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).bfloat16().float()
    return model


def _named(config: TokenizerConfig, path: Path) -> TokenizerConfig:
    return dataclasses.replace(config, weights=str(path), trust_jit=True)


def _refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "unused", "layouts"),
    [
        ("two levels", True, ("pt", "pt state_dict", "pt model module", "jit", "two halves", "half of two")),
        ("three levels", True, ("pt", "jit")),
        ("three levels", False, ("pt", "pt model")),
        ("four levels with attention", True, ("pt", "two halves")),
    ],
)
def test_every_layout_gives_the_weights_and_one_fingerprint(
    name: str, unused: bool, layouts: tuple[str, ...], tmp_path: Path
) -> None:
    config = CONFIGS[name]
    model = _model(config)
    wanted, state = model.state_dict(), original_names(model, unused)
    fingerprints = set()
    for number, layout in enumerate(layouts):
        folder = tmp_path / str(number)
        folder.mkdir()
        named = _named(config, write_layout(layout, state, folder))
        loaded = cosmos.load_autoencoder(named)
        assert loaded.state_dict().keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[key]) for key, tensor in loaded.state_dict().items())
        assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        assert cosmos.weights_folder(named) == folder
        fingerprints.add((cosmos.weights_fingerprint(named), cosmos.weights_fingerprint(named, part="decoder")))
    assert len(fingerprints) == 1


def test_each_part_has_its_own_fingerprint(tmp_path: Path) -> None:
    config = CONFIGS["two levels"]
    model = _model(config)
    named = _named(config, tmp_path / "w.pt")
    seen = []
    for touched in (None, model.encoder.conv_in.conv_s, model.decoder.conv_in.conv_s, model.post_quant_conv):
        if touched is not None:
            touched.bias.data.add_(1)
        torch.save(original_names(model), tmp_path / "w.pt")
        seen.append([cosmos.weights_fingerprint(named, part) for part in ("encoder", "decoder")])
    assert [a[0] == b[0] for a, b in zip(seen, seen[1:], strict=False)] == [False, True, True]
    assert [a[1] == b[1] for a, b in zip(seen, seen[1:], strict=False)] == [True, False, False]
    plain = dataclasses.replace(named, trust_jit=False)
    assert cosmos.weights_fingerprint(plain) == seen[-1][0]


def test_names_missing_left_over_or_of_another_shape_are_told_in_one_line(tmp_path: Path) -> None:
    config, file = CONFIGS["three levels"], tmp_path / "w.pt"
    state = original_names(_model(config), unused=False)

    def refusal(changed: dict[str, Tensor]) -> str:
        torch.save(changed, file)
        message = _refusal(lambda: cosmos.load_autoencoder(_named(config, file)))
        assert _refusal(lambda: cosmos.weights_fingerprint(_named(config, file))) == message
        return message

    encoder = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.up.")}
    missing = sum(".up_blocks." in name for name in _model(config).state_dict())
    message = refusal(encoder)
    assert "decoder.up_blocks.0.resnets.0.norm1.norm.weight is missing" in message and f" {missing - 1} more" in message
    message = refusal({**state, "loss.weight": torch.ones(1)})
    assert "loss.weight is not part of that network, and 0 more" in message
    message = refusal({**state, "quant_conv.conv3d.bias": torch.ones(3)})
    assert "quant_conv.bias has shape (3,) instead of (16,)" in message and "tokenizer.encoder_channels" in message


def test_unused_convolutions_are_dropped_all_or_none(tmp_path: Path) -> None:
    """A file with some of them uses those: it is of another ratio, and dropping them would give wrong latents."""
    config, file = CONFIGS["three levels"], tmp_path / "w.pt"
    model = _model(config)
    torch.save(original_names(model, unused=False), file)
    other = dataclasses.replace(_named(config, file), frames_per_latent=4, window=9)
    assert "samplers.0.conv" in _refusal(lambda: cosmos.load_autoencoder(other))
    everything = original_names(model)
    extra = everything.keys() - original_names(model, unused=False).keys()
    assert len(extra) == 12  # as NVIDIA's 0.1 files have
    one = min(extra).removesuffix("bias")
    torch.save({name: tensor for name, tensor in everything.items() if not name.startswith(one)}, file)
    assert "not part of that network, and 9 more" in _refusal(lambda: cosmos.load_autoencoder(_named(config, file)))


@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
def test_a_jit_is_not_opened_without_the_users_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS["two levels"]
    write_layout("jit", original_names(_model(config)), tmp_path)
    named = dataclasses.replace(_named(config, tmp_path), trust_jit=False)
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("opened"))
    for read in (cosmos.load_autoencoder, cosmos.weights_fingerprint):
        message = _refusal(lambda read=read: read(named))
        assert "can run code" in message and "tokenizer.trust_jit=true" in message and "fetch-weights" in message


class _Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
def test_files_that_cannot_be_read_give_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = CONFIGS["two levels"]
    good = tmp_path / "good.pt"
    torch.save(original_names(_model(config)), good)
    write_jit(original_names(_model(config)), tmp_path / "good.jit")
    whole = good.read_bytes()

    def refusal(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        named = _named(config, tmp_path / name)
        message = _refusal(lambda: cosmos.load_autoencoder(named))
        assert name in message and _refusal(lambda: cosmos.weights_fingerprint(named)) == message
        return message

    for name in ("bad.pt", "bad.jit"):
        for content in (b"", whole[: len(whole) // 2], b"hello world" * 50, random.Random(0).randbytes(64)):
            assert "cannot be read" in refusal(name, content)
    assert "cannot be read" in refusal("script.pt", (tmp_path / "good.jit").read_bytes())
    assert "cannot be read" in refusal("state.jit", whole)
    torch.save({"state_dict": {"a": _Payload()}}, tmp_path / "pickle.pt")
    message = refusal("pickle.pt", (tmp_path / "pickle.pt").read_bytes())
    assert "pickled code (posix.mkdir), which is never run" in message
    assert not (tmp_path / "ran").exists()
    for tree in ([torch.ones(3)], torch.ones(3), {"model": {"a": 1}}):
        torch.save(tree, tmp_path / "tree.pt")
        assert "no state dict" in refusal("tree.pt", (tmp_path / "tree.pt").read_bytes())


@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
@pytest.mark.parametrize("layout", ["pt", "jit"])
def test_a_flipped_byte_is_refused_or_harmless(layout: str, tmp_path: Path) -> None:
    """torch.load and torch.jit.load take tensors as they are; the checksums beside them are read here."""
    config, chance = CONFIGS["two levels"], random.Random(0)
    named = _named(config, write_layout(layout, original_names(_model(config)), tmp_path))
    (file,) = layouts.original_files(Path(named.weights))
    whole, wanted, refused = file.read_bytes(), cosmos.weights_fingerprint(named), 0
    for _ in range(60):
        spoiled = bytearray(whole)
        spoiled[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        file.write_bytes(bytes(spoiled))
        try:
            assert cosmos.weights_fingerprint(named) == wanted
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and file.name in str(error) and "et it again" in str(error)
    assert refused > 20


def test_a_pt_that_was_written_without_checksums_is_read(tmp_path: Path) -> None:
    config = CONFIGS["two levels"]
    state = original_names(_model(config))
    torch.save(state, tmp_path / "with.pt")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "without.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    one, other = (cosmos.weights_fingerprint(_named(config, tmp_path / f"{name}.pt")) for name in ("with", "without"))
    assert one == other


def test_the_old_pt_format_is_read_too(tmp_path: Path) -> None:
    config = CONFIGS["two levels"]
    model = _model(config)
    torch.save(original_names(model), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    loaded = cosmos.load_autoencoder(_named(config, tmp_path / "w.pt"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_one_frame_a_latent_step_does_not_tell_the_temporal_ratio(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    message = _refusal(lambda: cosmos.load_autoencoder(TokenizerConfig(weights=str(tmp_path / "w.pt"))))
    assert "frames_per_latent 1" in message and "8 for CV8x8x8" in message


def test_which_files_a_path_names(tmp_path: Path) -> None:
    """The safest layout of a folder first: diffusers, then the .pt, which cannot run code, then .jit."""
    assert layouts.original_files(tmp_path) == []
    half = tmp_path / "encoder.jit"
    half.touch()
    assert layouts.original_files(tmp_path) == layouts.original_files(half) == []
    pair = [half, tmp_path / "decoder.jit"]
    pair[1].touch()
    assert layouts.original_files(tmp_path) == layouts.original_files(half) == layouts.original_files(pair[1]) == pair
    for name in ("autoencoder.jit", "model.pt"):
        (tmp_path / name).touch()
        assert layouts.original_files(tmp_path) == [tmp_path / name] == layouts.original_files(tmp_path / name)
    (tmp_path / "readme.md").touch()
    assert layouts.original_files(tmp_path / "readme.md") == []
    config = dataclasses.replace(CONFIGS["two levels"], weights=str(tmp_path))
    model = _model(config)
    cosmos.write_autoencoder(model, tmp_path)
    assert torch.equal(cosmos.load_autoencoder(config).quant_conv.bias, model.quant_conv.bias)


@pytest.mark.parametrize(("weights", "word"), [("gone", "fetch-weights --out gone"), ("gone.pt", "mend the path")])
def test_missing_weights_name_the_way_to_get_them(weights: str, word: str) -> None:
    assert word in _refusal(lambda: cosmos.load_autoencoder(TokenizerConfig(weights=weights)))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
def test_all_layouts_at_the_real_size(tmp_path: Path) -> None:
    config = load_config("minerl_cosmos", ["tokenizer.weights=random"]).tokenizer
    model = _model(config)
    wanted = model.state_dict()
    sizes = [sum(t.numel() for n, t in wanted.items() if n.startswith(half)) for half in ("encoder.", "decoder.")]
    assert [round(size / 1e6, 1) for size in sizes] == [42.9, 62.7]
    assert len(original_names(model).keys() - original_names(model, unused=False).keys()) == 12
    fingerprints = set()
    for layout in ("pt model", "jit", "two halves"):
        folder = tmp_path / layout
        folder.mkdir()
        named = _named(config, write_layout(layout, original_names(model), folder))
        loaded = cosmos.load_autoencoder(named).state_dict()
        assert loaded.keys() == wanted.keys() and all(torch.equal(loaded[name], wanted[name]) for name in wanted)
        fingerprints.add(cosmos.weights_fingerprint(named))
    assert len(fingerprints) == 1

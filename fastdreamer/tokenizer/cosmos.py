"""The Cosmos autoencoder: building it at any size, reading its weights, writing them in the diffusers layout.

Source: Cosmos World Foundation Model Platform, arXiv:2501.03575, section 3; diffusers' AutoencoderKLCosmos, whose
defaults are CV8x8x8. Latents are raw everywhere: the checkpoint's own latent statistics are never applied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from fastdreamer.config import TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.shapes import CHANNELS
from fastdreamer.system.advice import PROGRAM, shell
from fastdreamer.system.files import expanded
from fastdreamer.tokenizer.fetch import FILES, fetch_command
from fastdreamer.tokenizer.layouts import original_files, original_state
from fastdreamer.tokenizer.model_card import check_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCosmos

EMBEDDED = Path(__file__).parent / "embedded"
CONFIG_FILE, WEIGHTS_FILE = FILES
PARTS = {"encoder": (("encoder.", "quant_conv."), "decode"), "decoder": (("decoder.", "post_quant_conv."), "encode")}


def architecture(config: TokenizerConfig) -> dict[str, Any]:
    """The diffusers configuration of the network that a TokenizerConfig describes.

    With one frame a latent step every clip is a single frame, for which any temporal ratio gives one latent; the
    ratio is then set to the patch size, which leaves no temporal resampling layers.

    Raises:
        UserError: if the ratios and the number of stages do not fit together (diffusers builds such networks without
            complaint, and they return latents or frames of the wrong size).
    """
    c, patch, spatial = config.frames_per_latent, config.patch_size, config.spatial_compression
    temporal = patch if c == 1 else c
    if temporal < patch or spatial < patch:
        raise UserError(
            f"tokenizer.patch_size {patch} compresses more than frames_per_latent {c} or spatial_compression {spatial} "
            "allows; lower patch_size"
        )
    spatial_layers = (spatial // patch).bit_length() - 1
    temporal_layers = (temporal // patch).bit_length() - 1
    stages = max(spatial_layers, temporal_layers + 1 if temporal_layers else 0) + 2
    if temporal_layers > spatial_layers:
        raise UserError(
            f"tokenizer.frames_per_latent {c} needs {temporal_layers} temporal stages but spatial_compression "
            f"{spatial} with patch_size {patch} has {spatial_layers} spatial ones; raise either of the two"
        )
    for name in ("encoder_channels", "decoder_channels"):
        if len(getattr(config, name)) < stages:
            raise UserError(f"tokenizer.{name} has {len(getattr(config, name))} entries; this network needs {stages}")
    return {
        "encoder_block_out_channels": list(config.encoder_channels),
        "decode_block_out_channels": list(config.decoder_channels),
        "latent_channels": CHANNELS,
        "num_layers": config.layers,
        "patch_size": patch,
        "spatial_compression_ratio": spatial,
        "temporal_compression_ratio": temporal,
        "latents_mean": None,
        "latents_std": None,
    }


def build_random(config: TokenizerConfig) -> AutoencoderKLCosmos:
    """The described network with seeded random weights (`config.seed`); the process's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _construct(architecture(config))


def load_autoencoder(config: TokenizerConfig) -> AutoencoderKLCosmos:
    """The autoencoder that `config.weights` names, in fp32, frozen and in eval mode.

    A diffusers folder brings its architecture; NVIDIA's .pt and .jit have that which `config` describes. Files that
    `fetch-weights` fetched or `fit-tokenizer` wrote are compared with their SHA-256 first.

    Raises:
        UserError: if the weights or their configuration are missing, broken, not trusted or do not fit `config`.
    """
    if config.weights == "random":
        model = build_random(config)
    elif files := _original_files(config):
        model = build_random(config)
        model.load_state_dict(_original_state(config, files, model), strict=True)
    else:
        folder = weights_folder(config)
        check_weights(folder)
        model = read_autoencoder(folder)
    check_fits(model, config)
    if not all(tensor.is_meta or bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise UserError(f"tokenizer {config.weights} holds weights that are not finite: fetch or fit it again")
    return model.float().eval().requires_grad_(False)


def read_autoencoder(folder: Path) -> AutoencoderKLCosmos:
    """A network in the diffusers layout: config.json and safetensors weights, loaded strictly into fp32.

    Raises:
        UserError: if a file is missing or broken, or the weights are not those of the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        arguments = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        model = _construct({k: v for k, v in arguments.items() if not k.startswith("_")})
        state = load_file(folder / WEIGHTS_FILE)
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise UserError(f"tokenizer in {folder} cannot be read: {_one_line(error)}") from error
    except RuntimeError as error:  # load_state_dict lists every key; the first lines say enough
        raise UserError(f"weights in {folder} do not fit its config.json: {_one_line(error)}") from error
    return model


def write_autoencoder(model: AutoencoderKLCosmos, folder: Path) -> None:
    """Write config.json and weights in the diffusers layout; weights are rounded to half precision.

    A reader gets exactly the values that were written: round the model with `round_to_half` first to keep using it.
    """
    from safetensors.torch import save

    model.save_config(folder)
    state = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    (folder / WEIGHTS_FILE).write_bytes(save(state, metadata={"format": "pt"}))


def round_to_half(model: torch.nn.Module) -> None:
    """Round every parameter to the nearest half-precision number, in place, keeping its type."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().to(parameter.dtype)


def weights_folder(config: TokenizerConfig) -> Path:
    """The folder in which the weights lie, checked to exist.

    Raises:
        UserError: if they are not there; the message says how to get them.
    """
    if files := _original_files(config):
        return files[0].parent
    embedded = config.weights == "embedded"
    folder = EMBEDDED if embedded else expanded(config.weights)
    if not _is_diffusers(folder):
        what = "the embedded tokenizer is missing from" if embedded else "no config.json and weights of a tokenizer in"
        mend = f"install FastDreamer again, or fit one to recordings: {shell(PROGRAM, 'fit-tokenizer', '--help')}"
        if not embedded:
            mend = f"fetch NVIDIA's: {fetch_command(folder)}" if can_be_fetched(config) else "mend the path"
            mend += ", or name a folder in diffusers' layout, NVIDIA's .pt or .jit, `embedded` or `random`"
        raise UserError(f"{what} {folder}; {mend}")
    return folder


def can_be_fetched(config: TokenizerConfig) -> bool:
    """Whether the configured weights name a folder that `fetch-weights` could fill."""
    folder = expanded(config.weights)
    is_taken = folder.suffix in (".pt", ".jit") or (folder.exists() and not folder.is_dir())
    return bool(config.weights.strip()) and not is_taken


def weights_fingerprint(config: TokenizerConfig, part: Literal["encoder", "decoder"] = "encoder") -> str:
    """SHA-256 over a part's tensors and architecture (or the seed of random weights).

    The encoder makes the latents, and so its fingerprint is in the key of every store; the decoder only draws
    pictures. The same values in two of NVIDIA's layouts have one fingerprint; in a diffusers folder they have
    another, since it brings its own architecture and number type. Needs diffusers for NVIDIA's layouts alone.

    Raises:
        UserError: if the weights are missing, not trusted or cannot be read.
    """
    if config.weights == "random":
        text = f"{json.dumps(architecture(config), sort_keys=True)}|{config.seed}"
        return hashlib.sha256((text if part == "encoder" else f"{text}|{part}").encode()).hexdigest()
    if files := _original_files(config):
        arguments = architecture(config)
        with torch.device("meta"):
            model = _construct(arguments)
        state = _original_state(config, files, model)
        return _digest(part, arguments, state, state.__getitem__)
    from safetensors import SafetensorError, safe_open

    folder = weights_folder(config)
    check_weights(folder)
    try:
        arguments = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS_FILE, "pt") as weights:
            return _digest(part, arguments, weights.keys(), weights.get_tensor)
    except (OSError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise UserError(f"tokenizer in {folder} cannot be read: {_one_line(error)}") from error


def check_fits(model: AutoencoderKLCosmos, config: TokenizerConfig) -> None:
    """Refuse a network whose ratios are not the configuration's.

    Raises:
        UserError: naming the setting to change.
    """
    own, where = model.config, f"the tokenizer {config.weights!r}"
    if config.frames_per_latent > 1 and own.temporal_compression_ratio != config.frames_per_latent:
        raise UserError(
            f"{where} has {own.temporal_compression_ratio} frames a latent step but tokenizer.frames_per_latent is "
            f"{config.frames_per_latent}; set it to {own.temporal_compression_ratio}, or to 1 for single frames"
        )
    if own.spatial_compression_ratio != config.spatial_compression:
        raise UserError(
            f"{where} compresses by {own.spatial_compression_ratio} in space but tokenizer.spatial_compression is "
            f"{config.spatial_compression}; set it to {own.spatial_compression_ratio}"
        )
    if own.latent_channels != CHANNELS:
        raise UserError(f"{where} has {own.latent_channels} latent channels; only {CHANNELS} are supported")


def _digest(part: str, arguments: dict[str, Any], names: Iterable[str], get: Callable[[str], torch.Tensor]) -> str:
    prefixes, other_part = PARTS[part]
    shape = {k: v for k, v in arguments.items() if not k.startswith(("_", other_part))}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name in sorted(n for n in names if n.startswith(prefixes)):
        tensor = get(name)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_diffusers(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def _original_files(config: TokenizerConfig) -> list[Path]:
    """The files of one of NVIDIA's layouts, if that is what `config.weights` names."""
    path = expanded(config.weights)
    return [] if config.weights == "embedded" or _is_diffusers(path) else original_files(path)


def _original_state(config: TokenizerConfig, files: list[Path], model: AutoencoderKLCosmos) -> dict[str, torch.Tensor]:
    if config.frames_per_latent == 1:  # NVIDIA's names and shapes are the same at every temporal ratio
        raise UserError(
            f"tokenizer.frames_per_latent 1 does not tell the temporal ratio of {files[0]}; set it (8 for CV8x8x8), or "
            f"use the diffusers folder, which tells: {fetch_command(files[0].parent / 'vae')}"
        )
    return original_state(files, model, config.trust_jit)


def _construct(arguments: dict[str, Any]) -> AutoencoderKLCosmos:
    from diffusers import AutoencoderKLCosmos

    return AutoencoderKLCosmos(**arguments)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

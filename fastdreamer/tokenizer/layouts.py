"""Cosmos weights in NVIDIA's own layouts, a `.pt` state dict or `.jit` TorchScript, under diffusers' names.

Source (names and buffers): NVIDIA/Cosmos-Tokenizer, modules/layers3d.py (EncoderFactorized, DecoderFactorized) and
networks/continuous_video.py; diffusers, scripts/convert_cosmos_to_diffusers.py.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from fastdreamer.errors import UserError
from fastdreamer.tokenizer.fetch import fetch_command

HALVES = ("encoder.jit", "decoder.jit")
FOLDERS: tuple[tuple[str, ...], ...] = (("model.pt",), ("autoencoder.jit",), HALVES)  # a .pt first: it cannot run code
WRAPPERS = ("model", "module", "state_dict")
BUFFERS = ("wavelets", "_arange", "patch_size_buffer")

# The order counts. Levels, middle and samplers get names that no later rule matches; `.conv3d` is the last part to go.
RULES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1."),
        (r"^(encoder|decoder)\.mid\.block_1\.", r"\1.mid_block.resnets.0."),
        (r"^(encoder|decoder)\.mid\.block_2\.", r"\1.mid_block.resnets.1."),
        (r"^(encoder|decoder)\.mid\.attn_1\.0\.", r"\1.mid_block.attentions.0."),
        (r"^(encoder|decoder)\.mid\.attn_1\.1\.", r"\1.mid_block.temp_attentions.0."),
        (r"_blocks\.(\d+)\.block\.", r"_blocks.\1.resnets."),
        (r"_blocks\.(\d+)\.attn\.(\d+)\.0\.", r"_blocks.\1.attentions.\2."),
        (r"_blocks\.(\d+)\.attn\.(\d+)\.1\.", r"_blocks.\1.temp_attentions.\2."),
        (r"_blocks\.(\d+)\.(down|up)sample\.", r"_blocks.\1.\2samplers.0."),
        (r"\.([qkv])\.conv3d\.", r".to_\1."),
        (r"\.proj_out\.conv3d\.", ".to_out.0."),
        (r"\.nin_shortcut\.conv3d\.", ".conv_shortcut."),
        (r"\.0\.conv3d\.", ".conv_s."),
        (r"\.1\.conv3d\.", ".conv_t."),
        (r"(conv[123]|quant_conv)\.conv3d\.", r"\1."),
    )
)
UP_LEVEL = re.compile(r"^decoder\.up\.(\d+)\.")  # diffusers counts them from the coarsest, NVIDIA from the finest
SAMPLER_CONV = re.compile(r"(.+samplers\.0\.conv[123])\.(?:weight|bias)")


def original_files(path: Path) -> list[Path]:
    """The weight files of an original layout at `path` (a file or a folder that holds them); empty if there is none.

    `encoder.jit` and `decoder.jit` hold half a network each: naming one of them means both.
    """
    if path.is_file() and path.name not in HALVES:
        return [path] if path.suffix in (".pt", ".jit") else []
    folder, layouts = (path.parent, FOLDERS[-1:]) if path.name in HALVES else (path, FOLDERS)
    found = ([folder / name for name in names] for names in layouts)
    return next((files for files in found if all(file.is_file() for file in files)), [])


def original_state(files: list[Path], model: nn.Module, trust_jit: bool) -> dict[str, Tensor]:
    """The weights in `files` as a state dict of `model` (diffusers' network, on any device), on the CPU in fp32.

    Args:
        files: the files that `original_files` gives.
        model: says which names and shapes there must be.
        trust_jit: the user's word that a .jit may be loaded, which can run code that is in it.

    Raises:
        UserError: if a file cannot be read without running code that nobody vouched for, is damaged, or holds other
            names or shapes than `model`.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _read(file, trust_jit)
    state = _without_unused(rename(state), model)
    _check_names_and_shapes(state, model, files[0] if len(files) == 1 else files[0].parent)
    return {name: tensor.float() for name, tensor in state.items()}


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in NVIDIA's names under diffusers' names; buffers that hold no weights are left out."""
    levels = 1 + max((int(match[1]) for name in state if (match := UP_LEVEL.match(name))), default=0)
    renamed = {}
    for name, tensor in state.items():
        if any(buffer in name for buffer in BUFFERS):
            continue
        name = UP_LEVEL.sub(lambda match: f"decoder.up_blocks.{levels - 1 - int(match[1])}.", name)
        for pattern, new in RULES:
            name = pattern.sub(new, name)
        renamed[name] = tensor
    return renamed


def _without_unused(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Drop the convolutions that NVIDIA's samplers always have and `model` lacks, where its sampler does less.

    All of them or none: a file that holds some uses them, and so has another temporal or spatial ratio than `model`.
    """
    unused = {name for name, module in model.named_modules() if isinstance(module, nn.Identity)}
    extra = {name: match[1] for name in state if (match := SAMPLER_CONV.fullmatch(name)) and match[1] in unused}
    if {name for name in unused if "samplers" in name} != set(extra.values()):
        return state
    return {name: tensor for name, tensor in state.items() if name not in extra}


def _check_names_and_shapes(state: Mapping[str, Tensor], model: nn.Module, where: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name} is not part of that network" for name in state if name not in wanted]
    wrong += [
        f"{name} has shape {tuple(state[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if wrong:
        raise UserError(
            f"weights in {where} are not of the network that the tokenizer settings describe: {wrong[0]}, and "
            f"{len(wrong) - 1} more such names; mend tokenizer.encoder_channels, decoder_channels, layers, patch_size, "
            "spatial_compression and frames_per_latent"
        )


def _check_sums(file: Path) -> None:
    """Hold every record of a zip file, as torch writes them, against its CRC-32, which torch itself never reads.

    A file that was written without (`torch.serialization.set_crc32_options`) has 0 everywhere and passes, as does the
    format before torch 1.6, which has none. They tell damage, not who wrote.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None
    except Exception as error:  # damaged directories raise anything
        raise _unreadable(file, error) from error
    if wrong is not None:
        raise UserError(
            f"{file} is damaged or changed (its record {wrong!r} is not what its checksum says): get it again"
        )


def _unreadable(file: Path, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__} {error}".split()).rpartition("error: ")[2].split(". ")[0][:80]
    return UserError(f"{file} cannot be read, is it whole? Get it again ({reason})")


def _read(file: Path, trust_jit: bool) -> dict[str, Tensor]:
    if file.suffix == ".jit" and not trust_jit:
        raise UserError(
            f"{file}: loading a .jit file can run code that is in it; tokenizer.trust_jit=true says that you trust "
            f"this one, or use the diffusers folder: {fetch_command(file.parent / 'vae')}"
        )
    _check_sums(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which nobody who reads its files can mend
            if file.suffix == ".jit":
                # NVIDIA's are bf16 traces made on CUDA, which a CPU cannot run: the tensors alone are read.
                state: Any = torch.jit.load(file, map_location="cpu").state_dict()
            else:  # the format before torch 1.6 cannot be memory-mapped
                state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # damaged files raise anything: EOFError, KeyError, UnpicklingError, RuntimeError ...
        if isinstance(error, UnpicklingError) and (code := re.search(r"GLOBAL (\S+)", str(error))):
            raise UserError(
                f"{file} needs pickled code ({code[1]}), which is never run; save its plain state dict, or use the "
                f"diffusers folder: {fetch_command(file.parent / 'vae')}"
            ) from error
        raise _unreadable(file, error) from error
    while isinstance(state, Mapping) and (inner := [state[w] for w in WRAPPERS if isinstance(state.get(w), Mapping)]):
        state = inner[0]
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{file} holds no state dict (tensors by name) of a tokenizer; name another file")
    return dict(state)

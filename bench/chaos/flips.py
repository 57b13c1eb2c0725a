"""Single flipped bytes in all that is hashed or checked: refused, or harmless; never taken for something else."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fastdreamer_engines import manifest as engine
from fastdreamer_engines.spec import EngineError
from torch import nn

from bench.chaos.children import Child, each
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import SMALL
from fastdreamer.config import Config, load_config
from fastdreamer.device import choose_device
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import ARRAYS
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.directory import RunDirectory
from fastdreamer.settings import dump_config
from fastdreamer.tokenizer.cosmos import build_random, load_autoencoder, write_autoencoder
from fastdreamer.tokenizer.fetch import RECORD, REPO
from fastdreamer.tokenizer.model_card import CARD, file_hashes
from fastdreamer.tokenizer.pixels import PixelDecoder
from fastdreamer.training.loop import fit
from fastdreamer.training.pixel_decoder import DecoderPhase, load_decoder
from fastdreamer.training.train import train

TOKENIZERS = ("fitted tokenizer", "fetched tokenizer", "tokenizer as .pt", "tokenizer as .jit")
NETWORK = (
    "tokenizer={weights: random, frames_per_latent: 2, window: 3, patch_size: 2, pool: 2, image_size: 32, "
    "spatial_compression: 4, encoder_channels: [4, 4, 4], decoder_channels: [4, 4, 4], layers: 1, trust_jit: true}"
)
TRAINING = (*SMALL, "data.recordings=/nonexistent", "phase1.steps=2", "decoder.checkpoint_every=4")
HARMLESS = "harmless"  # what is read is what was written


@dataclass(frozen=True)
class Target:
    """Files that are read together: `read` gives what they say, in a form that can be compared; `files` are changed."""

    name: str
    folder: Path
    read: Callable[[Path], Any]
    files: str = "*"
    tries: int = 2_200

    @property
    def paths(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob(self.files) if path.is_file())


def flips(target: Target, count: int, clock: Clock, seed: int) -> Row:
    """`count` flips, each alone, spread over the files."""
    chance, files, plan = random.Random(f"{seed}:{target.name}"), target.paths, []
    for number in range(count):
        file = files[number % len(files)]
        plan.append((file, chance.randrange(file.stat().st_size), chance.randrange(1, 256)))
    said = each(plan, flipping(target), clock.ends_at)
    failures = [text for text in said if text not in ("", HARMLESS)]
    refused, harmless = said.count(""), said.count(HARMLESS)
    note = f"{len(files)} files; {refused:,} refused, {harmless:,} harmless"
    return Row("flipped byte", target.name, len(said), failures, note)


def flipping(target: Target) -> Callable[[tuple[Path, int, int]], str]:
    """What flips a byte, reads, and puts it back."""
    wanted = cache(lambda: target.read(target.folder))

    def flip(entry: tuple[Path, int, int]) -> str:
        sound, (file, place, change) = wanted(), entry
        before = file.read_bytes()
        data = bytearray(before)
        data[place] ^= change
        file.write_bytes(data)
        try:
            found = target.read(target.folder)
        except (UserError, EngineError):
            return ""
        finally:
            file.write_bytes(before)
        return HARMLESS if found == sound else f"another content of {_kind(file)} is accepted"

    return flip


def _kind(file: Path) -> str:
    return file.name if not file.name.endswith(".safetensors") else f"{file.parent.parent.name}'s tensors"


def targets(folder: Path) -> list[Target]:
    """A checkpoint, a store, an engine and a configuration, made small; in a child, for torch runs."""
    made = Child(lambda: _make(folder)).end()
    if made.code:
        raise RuntimeError(made.text)
    return [
        Target("checkpoint", folder / "run" / "checkpoints" / "phase1", _read_checkpoint),
        Target("store", folder / "run" / "store", _read_store),
        Target("store's manifest", folder / "manifest", read_manifest, "manifest.json"),
        Target("engine", folder / "engine", _read_engine),
        Target("configuration", folder / "config", lambda path: RunDirectory(path).config()),
        *(Target(name, folder / name, _read_tokenizer, tries=400) for name in TOKENIZERS),
        Target("pixel decoder", folder / "run" / "checkpoints" / "phase0", _read_decoder, tries=400),
    ]


def _make(folder: Path) -> None:
    config = load_config("debug", list(TRAINING))
    store = folder / "run" / "store"
    write_synthetic_store(store, config.tokenizer.clock, action_space("crafter"), episodes=3, steps=12, seed=0)
    train(config, folder / "run", 1, draws=False)
    for name in ("config", "engine", "manifest"):
        (folder / name).mkdir()
    dump_config(config, folder / "config" / "config.yaml")
    _make_decoder(config, folder / "run")
    _make_tokenizers(folder)
    write_synthetic_store(folder / "manifest", config.tokenizer.clock, action_space("crafter"), 2, 6, 0)
    (folder / "engine").chmod(0o700)
    (folder / "engine" / "1x33.plan").write_bytes(bytes(range(256)) * 8)
    body = {"key": {"target": "sm86"}, "status": "verified", "measured": {"ms_per_clip": 1.5}}
    (folder / "engine" / engine.MANIFEST).write_bytes(engine.manifest_bytes(folder / "engine", body))


def _make_decoder(config: Config, run: Path) -> None:
    frames_per_latent, size = config.tokenizer.frames_per_latent, config.data.frame_size
    latents, frames = torch.randn(2, 16, 16), torch.zeros(2, frames_per_latent, 3, size, size, dtype=torch.uint8)
    device = torch.device("cpu")
    phase = DecoderPhase(config, PixelDecoder(frames_per_latent, size), latents, frames, device)
    fit(phase, config, config.decoder, run, choose_device(config), "synthetic", None, "pixel decoder")


def _make_tokenizers(folder: Path) -> None:
    """Write tokenizers as `fit-tokenizer` and `fetch-weights` do, and in NVIDIA's layouts."""
    model = build_random(load_config("debug", [NETWORK]).tokenizer)
    fitted, fetched, pt, jit = (folder / name for name in TOKENIZERS)
    for path in (fitted, fetched, pt, jit):
        path.mkdir()
    for path in (fitted, fetched):
        write_autoencoder(model, path)
    (fitted / CARD).write_text(json.dumps({"sha256": file_hashes(fitted)}))
    files = {
        name: {"sha256": digest, "bytes": (fetched / name).stat().st_size}
        for name, digest in file_hashes(fetched).items()
    }
    (fetched / RECORD).write_text(json.dumps({"repo": REPO, "revision": "0" * 40, "files": files}))
    torch.save(model.state_dict(), pt / "model.pt")  # diffusers' own names are taken as they are
    root = nn.Module()
    for name, tensor in model.state_dict().items():
        *above, last = name.split(".")
        node = root
        for part in above:
            if part not in dict(node.named_children()):
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        node.register_buffer(last, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(root), jit / "autoencoder.jit")


def _read_checkpoint(folder: Path) -> Any:
    found = load_checkpoint(folder)
    tensors = {
        (group, name): value.numpy().tobytes() for group, own in found.tensors.items() for name, value in own.items()
    }
    return tensors, found.state, found.path.name


def _read_store(folder: Path) -> Any:
    store = LatentStore.open(folder)
    return store.manifest, [
        (e.name, e.split, e.task, *(getattr(e, name).numpy().tobytes() for name in ARRAYS)) for e in store.episodes
    ]


def _read_engine(folder: Path) -> Any:
    manifest = engine.read_manifest(folder)
    engine.check_files(folder, manifest)
    return manifest


def _read_tokenizer(folder: Path) -> Any:
    config = load_config("debug", [NETWORK]).tokenizer
    state = load_autoencoder(replace(config, weights=str(folder))).state_dict()
    return {name: value.numpy().tobytes() for name, value in state.items()}


def _read_decoder(folder: Path) -> Any:
    run = RunDirectory(folder.parent.parent)
    decoder = load_decoder(run, load_config("debug", list(TRAINING)), torch.device("cpu"))
    assert decoder is not None
    return {name: value.numpy().tobytes() for name, value in decoder.state_dict().items()}

"""What goes in: recordings, frames, latents, what the tokenizer keeps, and what the actions and rewards look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastdreamer.errors import UserError
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check, check
from fastdreamer.latents.relabel import relabelled
from fastdreamer.latents.store import Episode
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock
from fastdreamer.system.advice import command
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase

CLIP = 33  # frames that go through the tokenizer, where a window is not longer
WINDOWS = 2  # windows whose reconstruction is measured
STORED = 0.02  # relative difference between stored (half precision) and fresh latents
SHOWN = 4  # commonest actions and rewards
SKIPPED = 0.05  # share of recordings that were left out


def checks(loaded: LoadedPhase, pictures: Path) -> Iterator[Check]:
    """The checks of the store and the batch; of frames, where the recordings are there."""
    yield from store(loaded)
    yield normalised(loaded)
    yield lengths(loaded)
    try:
        yield from tokenizer(loaded)
        yield reconstruction(loaded, pictures)
    except UserError as error:
        yield Check("frames", "tokenizer", " ".join(str(error).split()), "frames to latents", "not measured")


def store(loaded: LoadedPhase) -> Iterator[Check]:
    """Check the store: episodes left out, commonest action, rewards."""
    manifest, episodes = loaded.store.manifest, loaded.store.episodes
    skipped = manifest.get("skipped", {})
    share = len(skipped) / (len(skipped) + len(episodes))
    first = f" ({next(iter(skipped))})" if skipped else ""
    yield check(
        "data", "damaged episodes", f"{len(skipped)} of {len(skipped) + len(episodes)}{first}", "0",
        f"each is named with its reason by: {command('inspect')}; mend them, then encode again: {command('encode')}",
        amber=share > 0, red=share > SKIPPED,
    )  # fmt: skip
    yield imbalance(loaded)
    tasks = loaded.config.tasks.names if loaded.number > 1 else ()
    for task, view in zip(tasks or ("",), relabelled(loaded.store, episodes, tasks), strict=True):
        yield earned(view).about(task) if task else earned(view)


def earned(episodes: Sequence[Episode]) -> Check:
    """Check what the recordings were paid."""
    rewards = torch.cat([e.rewards for e in episodes if e.rewarded] or [torch.zeros(0)])
    share = float((rewards != 0).float().mean()) if len(rewards) else 0.0
    kinds, counts = rewards.unique(return_counts=True)
    commonest = [f"{float(kinds[i]):.3g}: {int(counts[i]):,}" for i in counts.argsort(descending=True)[:SHOWN]]
    return check(
        "data", "recorded rewards", f"{share:.2%} not 0 ({', '.join(commonest)})", "some that are not 0",
        "nothing can be learned about rewards: record or encode play that earns some",
        of=(float(kinds.sum()),), amber=share == 0,
    )  # fmt: skip


def imbalance(loaded: LoadedPhase) -> Check:
    """The commonest whole actions and their shares of the data."""
    taken = [e.actions for e in loaded.store.episodes if e.labelled]
    if not taken:
        return Check("actions", "commonest action", "no labelled episode", "at most 90 % of the data", "not measured")
    found, counts = torch.cat(taken).unique(dim=0, return_counts=True)
    shares, components = counts / counts.sum(), loaded.store.space.components

    def said(place: int) -> str:
        taken = [(c, c.labels[i]) for c, i in zip(components, found[place].tolist(), strict=True) if i != c.noop]
        labels = [c.name if label == "1" else f"{c.name}={label}" for c, label in taken]
        return f"{float(shares[place]):.1%} {' and '.join(labels) or 'nothing'}"

    share, gamma = float(shares.max()), loaded.config.heads.focal_gamma
    commonest = [said(int(place)) for place in shares.argsort(descending=True)[:SHOWN]]
    return check(
        "actions", "commonest action", ", ".join(commonest), "at most 90 % of the data",
        "use the focal loss (heads.focal_gamma=2), or data.skip_null with VPT recordings",
        red=share > flags.ONE_SIDED and not gamma, amber=share > flags.ONE_SIDED,
    )  # fmt: skip


def normalised(loaded: LoadedPhase) -> Check:
    """Check that normalised latents of the batch are near zero mean and unit spread."""
    batch, world = loaded.batch, loaded.world
    with torch.no_grad():
        latents = world.normalise(batch.latents, batch.positions)[batch.target_valid]
    mean, std = float(latents.mean()), float(latents.std())
    is_finite = bool(latents.isfinite().all())
    return check(
        "latents", "normalised latents", f"mean {mean:.2f}, std {std:.2f}", "near 0 and 1",
        "the model's statistics are of other latents: train phase 1 on this store",
        red=not is_finite or abs(mean) > 0.5 or not 0.5 < std < 2, amber=abs(mean) > 0.25 or not 0.7 < std < 1.5,
    )  # fmt: skip


def lengths(loaded: LoadedPhase) -> Check:
    """Check that actions are as long as latents."""
    batch = loaded.batch
    steps, actions, taken = batch.latents.shape[1], batch.actions.shape[1], batch.next_actions.shape[1]
    return check(
        "actions", "action length", f"{actions} and {taken} chunks", f"{steps}, as there are latent steps",
        f"actions are not on the latent clock; encode again: {command('encode', replace=True)}",
        red=not steps == actions == taken,
    )  # fmt: skip


def tokenizer(loaded: LoadedPhase) -> Iterator[Check]:
    """Frames of one recording through the tokenizer, beside what the store holds of them."""
    from fastdreamer.recordings.identity import behind
    from fastdreamer.recordings.read import find_recordings, how_to_read, read_recording
    from fastdreamer.tokenizer.engines.installed import open_tokenizer
    from fastdreamer.tokenizer.preprocess import preprocess

    config, held = loaded.config, {episode.name: episode for episode in loaded.store.episodes}
    folder = loaded.run.recordings(config)
    if not folder.is_dir():
        raise UserError(f"no recordings at {folder}")
    entries = loaded.store.manifest["episodes"]
    recording = next(iter(behind(find_recordings(folder), entries, folder).values()), None)
    if recording is None:
        raise UserError(f"no recording in {folder} is in the store")
    frozen = open_tokenizer(config, loaded.backend.device)
    frames = read_recording(recording, loaded.store.space, size=config.data.frame_size, **how_to_read(config)).frames[
        : max(CLIP, frozen.clock.window)
    ]
    clip = torch.from_numpy(frames)[None].permute(0, 1, 4, 2, 3)
    yield input_range(preprocess(clip, frozen.clock, config.tokenizer.image_size, "btchw"))
    count = min(len(frames), frozen.clock.window if frozen.clock.window > 1 else CLIP)
    latents = frozen.encode(clip[:, :count], "btchw")
    yield from output(latents, count, frozen.clock)
    yield check(
        "models", "tokenizer gradients", f"requires_grad {latents.requires_grad}", "False",
        "the tokenizer is not frozen: its latents must carry no gradient", red=latents.requires_grad,
    )  # fmt: skip
    fresh = frozen.encode_episode(frames)
    stored = held[recording.name].latents[: len(fresh)].float()
    steps = frozen.clock.steps(len(frames)) - (frozen.clock.window > 1)  # a cut episode's last window is padded
    apart = float((fresh[:steps] - stored[:steps]).norm() / stored[:steps].norm().clamp(min=1e-9))
    yield check(
        "latents", "stored against fresh latents", f"{apart:.2%} apart", f"at most {STORED:.0%}",
        f"the store is of another tokenizer, engine or recording; encode again: {command('encode', replace=True)}",
        red=not apart <= STORED,
    )  # fmt: skip


def input_range(clip: Tensor) -> Check:
    """Check the range of what the encoder gets."""
    low, high = float(clip.min()), float(clip.max())
    return check(
        "frames", "input range", f"{low:.2f} to {high:.2f}", "within -1 to 1, and not one colour",
        "scale frames to [0, 1] or give uint8: the tokenizer brings them to [-1, 1] itself",
        red=not (-1.001 <= low < high <= 1.001), amber=low > -0.05 or high < -0.9,
    )  # fmt: skip


def output(latents: Tensor, frames: int, clock: LatentClock) -> Iterator[Check]:
    """What the tokenizer gives for clips of `frames` frames: (b, l, n, z)."""
    steps, shape = clock.steps(frames), tuple(latents.shape)
    yield check(
        "latents", "tokenizer output", str(shape), f"(b, {steps}, {TOKENS}, {CHANNELS})",
        "tokenizer.image_size, spatial_compression and pool do not give 16 tokens of 16 channels",
        red=len(shape) != 4 or shape[2:] != (TOKENS, CHANNELS),
    )  # fmt: skip
    found = shape[1] if len(shape) > 1 else 0
    yield check(
        "latents", "latent steps", f"{found} of {frames} frames",
        f"{steps} = 1 + ceil(({frames} - 1) / {clock.frames_per_latent})",
        "the encoder is not causal, or frames were dropped: use 1 + ceil((T - 1) / c) steps", red=found != steps,
    )  # fmt: skip
    mean, std = float(latents.float().mean()), float(latents.float().std())
    yield check(
        "latents", "raw latents", f"mean {mean:.3f}, std {std:.3f}", "finite, std above 0",
        "the tokenizer's weights are damaged, or its precision too low: engines.precision=fp32",
        red=not bool(latents.isfinite().all()) or not std > 1e-4,
    )  # fmt: skip


def reconstruction(loaded: LoadedPhase, pictures: Path) -> Check:
    """PSNR unpooled and pooled; writes the picture."""
    from fastdreamer.encoding.reconstruction import MAX_DROP, measure_reconstruction

    config = loaded.config
    file = pictures / "reconstruction.png"
    found = measure_reconstruction(loaded.run.recordings(config), config, config.data.env, WINDOWS, pictures=file)
    if "not_measured" in found:
        return Check("reconstruction", "reconstruction", found["not_measured"], "PSNR", "not measured")
    pooled, unpooled, mean = found["pooled_db"], found["unpooled_db"], found["mean_frame_db"]
    is_worthless = not max(pooled, unpooled) >= mean
    recordings = loaded.run.recordings(config)
    fit = command("fit-tokenizer", recordings=recordings, out=loaded.run.path / "tokenizer")
    remedy = (
        f"the mean picture alone has {mean:.1f} dB: fit a tokenizer to these recordings: {fit}"
        if is_worthless
        else f"pooling too aggressive: tokenizer.pool={max(1, config.tokenizer.pool // 2)} and half the image_size, or "
        f"a tokenizer fitted through the pool: {fit}"
    )
    return check(
        "reconstruction", "reconstruction", f"pooled {pooled:.1f} dB, unpooled {unpooled:.1f} dB",
        f"pooling costs at most {MAX_DROP:g} dB",
        remedy,
        of=(pooled, unpooled, mean),
        red=found["pooling_too_aggressive"], amber=is_worthless,
    )  # fmt: skip

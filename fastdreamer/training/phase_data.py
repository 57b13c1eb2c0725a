"""What each phase trains on: which episodes, which crops, and where the latents live.

And what a run was trained on, so that a store which changed since does not go by in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config, SamplingConfig
from fastdreamer.errors import UserError
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.changes import differences
from fastdreamer.latents.crop_sampler import CropSampler, total_reward
from fastdreamer.latents.entries import digest
from fastdreamer.latents.journal import JOURNAL
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.relabel import relabelled
from fastdreamer.latents.store import SYNTHETIC, Episode, LatentStore
from fastdreamer.latents.store_advice import make, mend
from fastdreamer.run.run_files import TRAINED_ON
from fastdreamer.shapes import LatentClock

CPU = torch.device("cpu")


def training_loader(config: Config, phase: int, store: LatentStore, device: torch.device) -> Loader:
    """The batches of a phase; prints once where the store lives.

    Phase 1 takes unlabelled video too and crops of several lengths; phases 2 and 3 take labelled episodes, with the
    rewards of the configured tasks. Phase 3 dreams on from a crop's last step, so none ends where its episode did.

    Raises:
        UserError: where the store lacks what the phase needs, or the GPU cannot hold it.
    """
    episodes, sampling = episodes_of(store, "train", phase), config.sampling
    if not episodes and store.split("held_out") and not store.split("train"):
        raise UserError(
            f"store {store.path} has held-out episodes alone, as a packed run does, and phase {phase} draws from those "
            "that are trained on: give the run that it was packed from"
        )
    if not episodes:
        raise UserError(
            f"store {store.path} has no labelled episode to train phase {phase} on: encode recordings with actions, "
            "or train phase 1 alone"
        )
    if phase > 1:
        sampling = replace(sampling, short_window=0, single_step=0.0)
    if phase > 2:
        sampling = replace(sampling, reward_weighted=0.0)
    if phase != 2:
        sampling = replace(sampling, clone_top=1.0)
    if phase == 3:  # of all views alike: what is unknown in one task is known in another
        episodes = [before_end(episode, store.clock) for episode in episodes]
    views = relabelled(store, episodes, config.tasks.names if phase > 1 else ())
    for task, view in zip(config.tasks.names or ("",), views, strict=False):
        named = f" for task {task}" if task and phase > 1 else ""
        if sampling.reward_weighted and not any(total_reward(e) for e in view if e.labelled):
            raise UserError(
                f"sampling.reward_weighted is {sampling.reward_weighted}, but no labelled training episode of store "
                f"{store.path} has a reward{named}: set it to 0"
            )
        if sampling.clone_top < 1 and not any(e.rewarded for e in ranked(config, store, view) or view):
            raise UserError(
                f"sampling.clone_top is {sampling.clone_top}, but no labelled training episode of store {store.path} "
                f"has rewards{named} to choose by: set it to 1"
            )
    if phase == 2 and not any(episode.rewarded for view in views for episode in view):
        print("no training episode has rewards: phase 2 clones the policy alone, phase 3 cannot follow", flush=True)
    home = choose_home(config, store, device)
    window = config.imagination.start_context if phase == 3 else config.dynamics.window
    batch_size = config.phase(phase).batch_size
    sampler = _sampler(config, store, views, window, batch_size, sampling, home)
    # A few gathers on the GPU, or copies within RAM for a CPU, would only contend with the step from a thread.
    is_slow = home == CPU and (device.type == "cuda" or store.is_on_disk)
    return Loader(sampler, device, config.sampling.prefetch if is_slow else 0)


def held_out_crops(config: Config) -> int:
    """How many held-out crops phase 2 is checked on."""
    return max(64, config.phase2.batch_size)


def held_out_batch(config: Config, store: LatentStore) -> Batch | None:
    """One batch of phase 2's held-out crops, the same for a whole run; None without labelled held-out episodes."""
    episodes = episodes_of(store, "held_out", 2)
    if not episodes:
        return None
    crops, window, top = held_out_crops(config), config.dynamics.window, config.sampling.clone_top
    views = relabelled(store, episodes, config.tasks.names)
    if not all(any(episode.rewarded for episode in view) for view in views):
        top = 1.0  # nothing to choose by
    return _sampler(config, store, views, window, crops, SamplingConfig(clone_top=top)).batch(0)


def rewarded_batch(config: Config, store: LatentStore, crops: int) -> Batch | None:
    """Crops of held-out episodes that have rewards, of training episodes where none has; None without either."""
    for split in ("held_out", "train"):
        views = relabelled(store, episodes_of(store, split, 2), config.tasks.names)
        known = [place for place, same in enumerate(zip(*views, strict=True)) if any(e.rewarded for e in same)]
        if known:
            kept = [[view[place] for place in known] for view in views]
            return _sampler(config, store, kept, config.dynamics.window, crops).batch(0)
    return None


def _sampler(
    config: Config,
    store: LatentStore,
    views: Sequence[Sequence[Episode]],
    length: int,
    crops: int,
    sampling: SamplingConfig | None = None,
    home: torch.device | None = None,
) -> CropSampler:
    tasks = views if len(views) > 1 else ()
    discount = config.imagination.gamma
    by = ranked(config, store, views[0]) if sampling is not None and sampling.clone_top < 1 else ()
    return CropSampler(views[0], store.clock, length, crops, config.seed, discount, sampling, home, tasks, by)


def ranked(config: Config, store: LatentStore, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes with the rewards of sampling.clone_by; empty where that is the trained task itself."""
    if not config.sampling.clone_by:
        return []
    stored = {episode.name: episode for episode in store.episodes}  # these may have a task's rewards already
    return relabelled(store, [stored[episode.name] for episode in episodes], (config.sampling.clone_by,))[0]


def episodes_of(store: LatentStore, split: str, phase: int) -> list[Episode]:
    """A split's episodes that a phase can use."""
    return [episode for episode in store.split(split) if phase == 1 or episode.labelled]


def before_end(episode: Episode, clock: LatentClock) -> Episode:
    """The episode without the step that it ended in, where it did: nothing can be done there."""
    frames = 1 + (clock.steps(episode.length) - 2) * clock.frames_per_latent
    if not episode.rewarded or not episode.terminals[max(0, frames - 1) :].any():
        return episode
    return episode.until(frames, clock.steps(episode.length) - 1)


def choose_home(config: Config, store: LatentStore, device: torch.device) -> torch.device:
    """Choose the device that holds the training latents: the GPU, or host memory; printed, so that nobody has to guess.

    Raises:
        UserError: if `data.resident` is `card` and there is no GPU, or too little room on it.
    """
    settings, size_gb = config.data, store.size_bytes / 2**30
    size = f"{size_gb:.2f} GiB" if size_gb >= 0.1 else f"{size_gb * 1024:.1f} MiB"
    if settings.resident == "card" and device.type != "cuda":
        raise UserError(f"data.resident is card but training runs on {device.type}: use data.resident=auto")
    fits = settings.resident == "auto" and device.type == "cuda" and size_gb <= settings.card_limit_gb
    if settings.resident == "card" or fits:
        free_gb = torch.cuda.mem_get_info(device)[0] / 2**30
        if size_gb > free_gb:
            raise UserError(f"the store ({size}) does not fit the GPU ({free_gb:.2f} GiB free): use data.resident=ram")
        print(f"latent store: {size}, on the GPU", flush=True)
        return device
    beyond = f"on disk, read when used: over data.memory_limit_gb {settings.memory_limit_gb:g}"
    print(f"latent store: {size}, {beyond if store.is_on_disk else 'in RAM'}", flush=True)
    return CPU


def changes_since(run: Path, store: LatentStore) -> str:
    """How the store differs from what the run was last trained on; empty if it does not, or nothing was noted."""
    try:
        noted = TRAINED_ON.read(run, remedy="whether the store changed is not known")
    except UserError as error:
        return str(error)
    said = differences(noted["episodes"], _summary(store)) if noted else ""
    return f"store {store.path} changed since this run was last trained on it; episodes: {said}" if said else ""


def unfinished(store: LatentStore) -> str:
    """Says that `encode` has not come to its end; empty if it has. The split of a new episode is settled there."""
    if not (store.path / JOURNAL).exists():
        return ""
    return f"store {store.path} is not finished: an episode may still come into the other split; {mend(store.path)}"


def aligned_before(store: LatentStore) -> str:
    """Says that actions were laid beside frames by number, before times were read; empty if none were.

    Our own recordings prove their frames one by one, and made-up ones have none.
    """
    if store.tokenizer == SYNTHETIC or not store.space.name.startswith(("minerl", "vpt")):
        return ""
    old = [entry for entry in store.manifest["episodes"].values() if entry["labelled"] and "alignment" not in entry]
    if not old:
        return ""
    return (
        f"{len(old):,} episodes of store {store.path} were encoded before times matched frames to actions; "
        f"check them, and encode again what was out of step, with: {make(store.path)}"
    )


def note(run: Path, store: LatentStore) -> None:
    """Keep what the run is trained on from now."""
    content = {"episodes": _summary(store)}
    noted = {"sha256": digest(content), **content}
    try:
        is_known = TRAINED_ON.read(run) == noted
    except UserError:
        is_known = False
    if not is_known:
        TRAINED_ON.write(run, noted)


def _summary(store: LatentStore) -> dict[str, Mapping[str, Any]]:
    entries = store.manifest["episodes"]
    return {e.name: {"split": e.split, "task": e.task, "sha256": entries[e.name]["sha256"]} for e in store.episodes}

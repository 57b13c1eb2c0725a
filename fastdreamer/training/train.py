"""`fastdreamer train`: builds a phase from a run directory, trains it, and says what came out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from fastdreamer import __version__
from fastdreamer.config import Config
from fastdreamer.device import Backend, choose_device, go_on_with_threads
from fastdreamer.errors import UserError
from fastdreamer.health.checks import Check
from fastdreamer.latents.entries import digest
from fastdreamer.latents.relabel import check_task
from fastdreamer.latents.store import RUNNERS, SYNTHETIC, LatentStore, check_key, store_key
from fastdreamer.ranks.membership import ALONE, Ranks, current
from fastdreamer.ranks.torchrun import restarts
from fastdreamer.run.checkpoint import Checkpoint, Damaged, load_checkpoint, steps_in
from fastdreamer.run.directory import RunDirectory, check_architecture, check_latents, check_resumable
from fastdreamer.run.lock import alone, run_lock
from fastdreamer.settings import config_hash
from fastdreamer.tokenizer.frozen import tokenizer_fingerprint
from fastdreamer.training.build import KINDS, Kind, build_phase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.loop import fit
from fastdreamer.training.phase_data import aligned_before, changes_since, note, unfinished

PHASES = tuple(KINDS)


class Gate(Protocol):
    """Looks at what a phase is to be built on before it is (see `tools.diagnosis.gates`)."""

    def __call__(
        self, config: Config, phase: int, parent: Checkpoint, store: LatentStore, device: torch.device
    ) -> Sequence[Check]:
        """The checks; raises UserError where the phase is refused."""


class Memory(Protocol):
    """Plans a phase's memory before it is built, and says afterwards what was taken (see `run_memory`)."""

    def settle(self, config: Config, number: int, backend: Backend, store_bytes: int) -> Config:
        """The configuration with the phase's `micro_batch` settled; raises UserError where it cannot fit."""

    def finished(self) -> dict[str, Any]:
        """Predicted and measured, for the result."""


@alone
def train(
    config: Config,
    run_dir: Path,
    phase: int,
    resume: bool = False,
    checkpoint: Path | None = None,
    memory: Memory | None = None,
    gate: Gate | None = None,
    imagination: Kind = ImaginationPhase,
    draws: bool = True,
) -> dict[str, Any]:
    """Trains one phase in a run directory. A phase that torchrun has started again goes on from its newest checkpoint.

    Args:
        config: the resolved configuration.
        run_dir: reads its latent store and earlier phases, writes checkpoints and metrics.
        phase: 1 world model, 2 behaviour cloning, 3 imagination.
        resume: go on from the phase's newest checkpoint.
        checkpoint: the earlier phase's checkpoint to build on; by default the run directory's. With `resume` it may be
            one of the phase itself, where no newer one can be read.
        memory: plans the phase's memory; None leaves `micro_batch` as it is.
        gate: is asked before phases 2 and 3 start; None lets everything pass.
        imagination: makes phase 3; controls put their own in its place (see `study`).
        draws: train the pixel decoder beside phase 1.

    Returns:
        Phase, steps, seconds, parameters trained, and the last figures.

    Raises:
        UserError: for a phase that does not exist, missing input, a checkpoint that does not fit, or a shut gate.
    """
    if phase not in PHASES:
        raise UserError(f"phase is {phase}; there are phases 1 (world model), 2 (cloning) and 3 (imagination)")
    run, ranks = RunDirectory(run_dir), current()
    _check_batch(config, phase, ranks)
    resume = ranks.from_main("resume", resume or (restarts() > 0 and run.has_phase(phase)))
    if run.has_phase(phase) and not resume:
        raise UserError(f"{run_dir} already holds phase {phase}: add --resume to go on, or choose another --run-dir")
    resume_from = _resumed(run, config, phase, checkpoint) if resume else None
    if resume_from is not None:
        check_resumable(resume_from, config)
    parent = resume_from or _parent(run, config, phase, checkpoint)
    store = LatentStore.open(run.store(config), memory_limit_gb=config.data.memory_limit_gb)
    _check_store(store, config, parent, phase)
    changed = changes_since(run.path, store)
    for line in filter(None, (unfinished(store), aligned_before(store), changed)):
        print(line, flush=True)
    key = store.manifest["key"]
    print(f"latents: encoded by {key.get('backend')} {key.get('precision')}", flush=True)
    backend = choose_device(config)
    if resume_from is not None and backend.device.type == "cpu":
        go_on_with_threads(resume_from.state.get("threads"))
    checks: Sequence[Check] = ()
    if gate is not None and parent is not None and resume_from is None and ranks.is_main:
        checks = gate(config, phase, parent, store, backend.device)
    forced = list(parent.state.get("forced", ())) if parent is not None else []
    forced += [check.to_dict() | {"phase": phase} for check in checks if check.verdict == "red"]
    if memory is not None and ranks.is_main:
        config = _settled(memory, config, phase, backend, store.size_bytes)
    at_once = ranks.from_main("micro-batch", config.phase(phase).micro_batch)
    config = config.with_phase(phase, replace(config.phase(phase), micro_batch=at_once))
    torch.manual_seed(config.seed)
    built = build_phase(config, phase, store, parent, backend, imagination if phase == 3 else None)
    if isinstance(built, ImaginationPhase) and parent is not None and not built.agent.reward.is_trained:
        raise UserError(
            f"{parent.path} was cloned from recordings without rewards, so phase 3 has nothing to improve: "
            "train phase 2 on a store with rewards"
        )
    run = RunDirectory(run_dir.resolve())  # a link that leads elsewhere meanwhile changes nothing
    with run_lock(run.path):  # which says so where it was moved
        if ranks.is_main:
            note(run.path, store)
    if not ranks.is_alone:
        read = {"version": __version__, "configuration": config_hash(config), "store": digest(store.manifest)}
        ranks.begin(read, config.ranks.timeout_s, config.ranks.check_every, backend.device)
        if config.ranks.shard and built.transformer is None:
            print(f"phase {phase} is not sharded: every rank holds all of it (ranks.shard is for phase 1)", flush=True)
    started = time.perf_counter()
    settings = config.phase(phase)
    figures = fit(built, config, settings, run.path, backend, store.tokenizer, resume_from, forced=forced)
    if not ranks.is_main:
        return {}
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "phase": phase,
        "steps": run.step(phase),
        "seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in built.model.parameters() if p.requires_grad),
        "figures": figures,
    }
    if changed:
        result["store"] = changed
    if checks:
        result["gates"] = {check.name: f"{check.value}: {check.verdict}" for check in checks}
    if forced:
        result["forced"] = [f"phase {one['phase']}: {one['name']}" for one in forced]
    if memory is not None:
        result |= memory.finished()
    if phase == 1 and draws:
        result["decoder"] = _train_decoder(config, run, store, replace(backend, ranks=ALONE), resume)
    return result


def _check_batch(config: Config, phase: int, ranks: Ranks) -> None:
    """Every rank needs rows of every batch; as many as the others where those or sharded weights are gathered."""
    size, world = config.phase(phase).batch_size, ranks.world
    if (phase == 3 or (phase == 1 and config.ranks.shard)) and size % world:
        raise UserError(
            f"phase{phase}.batch_size is {size}, which {world} ranks cannot share: make it a multiple of {world}"
        )
    if size < world:
        raise UserError(f"phase{phase}.batch_size is {size}, fewer than the {world} ranks: start at most {size}")


def _settled(memory: Memory, config: Config, phase: int, backend: Backend, store_bytes: int) -> Config:
    """The configuration with the phase's `micro_batch` settled: of several ranks for the rows of one."""
    train = config.phase(phase)
    own = replace(train, batch_size=-(-train.batch_size // backend.ranks.world))
    settled = memory.settle(config.with_phase(phase, own), phase, backend, store_bytes)
    return settled.with_phase(phase, replace(settled.phase(phase), batch_size=train.batch_size))


def _resumed(run: RunDirectory, config: Config, phase: int, given: Path | None) -> Checkpoint:
    own = run.checkpoints(phase).resolve()
    if given is None or own not in (given.resolve(), *given.resolve().parents):  # what the phase was built on
        return run.load(phase, config)
    checkpoint = load_checkpoint(given)
    for newer in steps_in(run.checkpoints(phase)):
        if newer.name > checkpoint.path.name and _is_whole(newer):
            raise UserError(f"{newer} is newer than {given}, and whole: leave --checkpoint out to go on from it")
    return checkpoint


def _is_whole(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except Damaged:
        return False
    return True


def _parent(run: RunDirectory, config: Config, phase: int, given: Path | None) -> Checkpoint | None:
    if phase == 1:
        if given is not None:
            raise UserError("--checkpoint is what phases 2 and 3 build on; phase 1 starts from nothing (or --resume)")
        return None
    if given is None:
        return run.load(phase - 1, config)
    parent = load_checkpoint(given)
    if parent.phase != phase - 1:
        raise UserError(f"{given} is a checkpoint of phase {parent.phase}; phase {phase} builds on phase {phase - 1}")
    check_architecture(parent, config)
    return parent


def _check_store(store: LatentStore, config: Config, parent: Checkpoint | None, phase: int) -> None:
    if store.tokenizer != SYNTHETIC:
        expected = store_key(config, tokenizer_fingerprint(config.tokenizer))
        free = {name: store.manifest["key"].get(name) for name in RUNNERS if name in store.manifest["key"]}
        check_key(store.path, store.manifest["key"], expected | free)
    elif store.clock != config.tokenizer.clock:
        raise UserError(f"{store.path} has another latent clock than the configuration: write it again")
    tasks = 1 + max(episode.task for episode in store.episodes)
    if 0 < config.dynamics.tasks < tasks:
        raise UserError(f"store {store.path} holds {tasks} tasks, dynamics.tasks is {config.dynamics.tasks}: raise it")
    for task in config.tasks.names if phase > 1 else ():
        check_task(store, task)
    if parent is not None:
        check_latents(parent, store.tokenizer, f"store {store.path}")


def _train_decoder(
    config: Config, run: RunDirectory, store: LatentStore, backend: Backend, resume: bool
) -> dict[str, Any]:
    """Trains the pixel decoder beside phase 1 where the recordings are at hand; it touches nothing else.

    Phase 1 is finished by then: what fails here costs the decoder alone, and is said.
    """
    from fastdreamer.training.pixel_decoder import train_pixel_decoder

    try:
        return train_pixel_decoder(config, run, store, backend, resume)
    except Exception as error:  # whatever recordings and their codecs raise
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = kind + " ".join(str(error).split())
        print(f"pixel decoder: not trained, so imagination cannot be drawn; {reason}", file=sys.stderr, flush=True)
        return {"trained": False, "reason": reason}

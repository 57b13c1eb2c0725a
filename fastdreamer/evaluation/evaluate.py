"""`eval`: the trained policies in the real environment, the world model on held-out play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.device import Backend, choose_device
from fastdreamer.errors import UserError
from fastdreamer.evaluation import environments as acting
from fastdreamer.evaluation.bootstrap import mean_interval
from fastdreamer.evaluation.calibration import calibrate, calibrate_recordings
from fastdreamer.evaluation.closed_loop import AgentPolicy, Episodes, Policy, RandomPolicy, check_worlds, join, play
from fastdreamer.evaluation.imagined_rewards import imagined_rewards
from fastdreamer.evaluation.open_loop import choose_crops, evaluate_world_model, imagining
from fastdreamer.evaluation.payments import Trace, tasks_of
from fastdreamer.evaluation.pictures import RealFrames, write_filmstrips
from fastdreamer.heads.actor import Actor
from fastdreamer.latents.relabel import relabelled
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.recordings.actions import action_space
from fastdreamer.run import run_files
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.lock import alone
from fastdreamer.system.files import check_replaceable
from fastdreamer.system.json_files import read_loosely
from fastdreamer.training.models import load_agent, world_model_from

STRIPS = 3
WRITTEN = (run_files.WORLD_MODEL, run_files.EVALUATION, run_files.SUMMARY, run_files.PICTURES)
DIFFERENCES = (("phase2", "random"), ("phase3", "phase2"), ("phase3", "random"))


@alone
def evaluate(config: Config, run_dir: Path, backend: Backend | None = None) -> dict[str, Any]:
    """Evaluate what is trained in `run_dir`; writes evaluation.json, world_model.json and pictures/.

    Returns:
        The contents of evaluation.json, with those of world_model.json under "world_model". What could not be
        evaluated is named in "notes".

    Raises:
        UserError: if nothing is trained there, an evaluation world was recorded, or a part is damaged.
    """
    run = RunDirectory(run_dir)
    trained = run.trained_phases()
    acting.check(config)  # first: all else takes minutes
    check_replaceable(*(file.path(run_dir) for file in WRITTEN))
    if config.data.env == "crafter":
        check_worlds(evaluation_seeds(config), recorded_seeds(config, run))
    device = (backend or choose_device(config)).device
    store = LatentStore.open(run.store(config), memory_limit_gb=config.data.memory_limit_gb)
    world_model = evaluate_open_loop(config, run, trained, store, device)
    run_files.WORLD_MODEL.write(run_dir, world_model)
    evaluation = evaluate_policies(config, run, trained, device)
    for task in tasks_of(config):
        entry = evaluation.get("tasks", {}).get(task.name, evaluation)
        entry["reward_calibration"] |= calibrate_recordings(config, run, trained, store, task, device)
    run_files.EVALUATION.write(run_dir, evaluation)
    return evaluation | {"world_model": world_model}


def evaluate_policies(
    config: Config, run: RunDirectory, trained: Sequence[int], device: torch.device
) -> dict[str, Any]:
    """Random play and every trained phase, sampled and greedy, on the same worlds: contents of evaluation.json.

    With several tasks every policy plays each of them, on the same worlds too; the entries of the first stand at the
    top, those of all of them under `tasks`.
    """
    settings, tasks = config.evaluation, tasks_of(config)
    seeds = evaluation_seeds(config)
    result: dict[str, Any] = {
        "env": config.data.env,
        "policies": {},
        "differences": {},
        "reward_calibration": {},
        "seeds": {"first": seeds[0], "count": len(seeds)},
        "max_steps": settings.max_steps,
        "execute": settings.execute or config.tokenizer.frames_per_latent,
        "notes": [f"Phase {phase} is not trained in this run." for phase in (2, 3) if phase not in trained],
    }
    missing = acting.missing(config)
    if missing:
        result["notes"].append(missing)
        return result
    played: dict[str, dict[str, Episodes]] = {task.name: {} for task in tasks}
    calibration: dict[str, dict[str, Any]] = {task.name: {} for task in tasks}
    stopped = _play_all(config, run, [phase for phase in trained if phase > 1], seeds, device, played, calibration)
    result["notes"] += acting.notes(config, stopped) + _uncounted(played)
    if result["execute"] < config.tokenizer.frames_per_latent:
        result["notes"].append(
            f"Predicted reward was not compared with what was paid: evaluation.execute {result['execute']} is below "
            f"the chunk of {config.tokenizer.frames_per_latent}; set it to 0."
        )
    entries = {name: _entry(episodes, config) for name, episodes in played.items()}
    entries = {name: entry | {"reward_calibration": calibration[name]} for name, entry in entries.items()}
    if config.tasks.names:
        result["task"] = tasks[0].name
    if len(tasks) > 1:
        result["tasks"] = entries
    return result | entries[tasks[0].name]


def _entry(episodes: Mapping[str, Episodes], config: Config) -> dict[str, Any]:
    """What the policies earned for one task."""
    how = config.evaluation.bootstrap, config.evaluation.seed
    return {
        "policies": {name: played.to_dict(*how) for name, played in episodes.items()},
        "differences": {
            f"{one}_minus_{other}": mean_interval(episodes[one].returns - episodes[other].returns, *how).to_dict()
            for one, other in DIFFERENCES
            if one in episodes and other in episodes
        },
    }


def _uncounted(played: Mapping[str, Mapping[str, Episodes]]) -> list[str]:
    return [
        f"Task {task}: the environment never counted it; nobody obtained it, or it goes by another name there."
        for task, episodes in played.items()
        if episodes and all(task in each.uncounted for each in episodes.values())
    ]


def _play_all(
    config: Config,
    run: RunDirectory,
    phases: Sequence[int],
    seeds: Sequence[int],
    device: torch.device,
    episodes: Mapping[str, dict[str, Episodes]],
    calibration: Mapping[str, dict[str, Any]],
) -> UserError | None:
    """Plays every policy for every task; returns the reason if Minecraft stopped before that.

    Fills in each task's `episodes`, a policy an entry, and `calibration`, a trained policy an entry, where whole chunks
    are executed and rewards are known. Random play is played once and paid by every task.
    """
    settings, c = config.evaluation, config.tokenizer.frames_per_latent
    execute = settings.execute or c
    if execute < c and (config.heads.readout == "agent_tokens" or config.heads.history):
        how = "readout agent_tokens" if config.heads.readout == "agent_tokens" else f"history {config.heads.history:g}"
        raise UserError(
            f"evaluation.execute {execute} is below the chunk of {c}: with heads.{how} the policy remembers whole "
            "chunks; set evaluation.execute to 0"
        )
    tasks = tasks_of(config)
    agents = {phase: load_agent(run, config, phase, device) for phase in phases}  # refuse before an hour of play
    waves = acting.waves(config, seeds)
    sizes = {len(wave) for wave in waves} if agents else ()
    encoders = {size: acting.open_encoder(config, run, size, device) for size in sizes}
    variants = [(f"phase{phase}{end}", phase, end != "") for phase in agents for end in ("", "_greedy")]
    turns = [("random", 0, False, tasks), *((*variant, [task]) for task in tasks for variant in variants)]
    moves = action_space(config.data.env).sizes
    try:
        with acting.open_pool(config, waves[0]) as pool:
            for name, phase, greedy, judged in turns:
                names, number = [task.name for task in judged], judged[0].number
                actor = Actor(agents[phase].world, agents[phase].agent, number) if phase else None
                title = f"{name} for {names[0]}" if actor is not None and len(tasks) > 1 else name
                parts, traced = [], []
                for wave in waves:
                    if len(waves) > 1:
                        pool.choose(wave)
                    draws = settings.seed + wave[0] - seeds[0]  # others in every wave, the same at every evaluation
                    policy: Policy = (
                        AgentPolicy(actor, greedy, draws, device) if actor is not None else RandomPolicy(moves, c, wave)
                    )
                    encoder = encoders.get(len(wave))
                    is_judged = actor is not None and execute == c and actor.agent.reward.is_trained
                    trace = Trace() if is_judged else None
                    parts.append(play(policy, pool, encoder, c, execute, settings.max_steps, title, trace, names))
                    traced += trace.episodes(name, number) if trace else []
                whole = join(parts)
                for task in names:
                    episodes[task][name] = whole.of(task)
                if traced and actor is not None:
                    found = calibrate(actor.world, actor.agent, traced, config)
                    calibration[names[0]][name] = found | {"step": run.step(phase)}
    except UserError as error:
        if config.data.env == "crafter" or (settings.backend != "auto" and not any(episodes.values())):
            raise
        return error
    return None


def evaluation_seeds(config: Config) -> range:
    """The worlds that every policy plays."""
    return range(config.evaluation.seed, config.evaluation.seed + config.evaluation.episodes)


def recorded_seeds(config: Config, run: RunDirectory) -> list[int]:
    """Worlds that were recorded: by the recordings' own metadata, and by the configuration where that does not say."""
    found = [read_loosely(path) for path in run.recordings(config).glob("*/*/metadata.json")]
    seeds = {metadata["seed"] for metadata in found if metadata and type(metadata.get("seed")) is int}
    if not seeds or None in found:
        seeds |= set(range(config.record.seed, config.record.seed + config.record.episodes))
    return sorted(seeds)


def evaluate_open_loop(
    config: Config, run: RunDirectory, trained: Sequence[int], store: LatentStore, device: torch.device
) -> dict[str, Any]:
    """The world model on held-out episodes: contents of world_model.json; writes the filmstrips too."""
    from fastdreamer.training.pixel_decoder import load_decoder

    settings = config.evaluation
    world = world_model_from(run.load(trained[0], config), config, device)
    try:
        played, window = _held_out(config, trained, store), config.dynamics.window
        crops, batch = choose_crops(played, store.clock, window, settings.context, settings.crops, settings.seed)
    except UserError as error:
        return {"notes": [f"The world model was not evaluated: {error}"]}
    batch = batch.to(device)
    truth = world.normalise(batch.latents, batch.positions)
    imagine = imagining(world, settings.context)
    result, errors = evaluate_world_model(imagine, batch, truth, store.space.noop, settings)
    if not batch.labelled.all():
        without = f"{int((~batch.labelled).sum())} of {len(crops)} windows have no action labels"
        result["notes"] = [f"{without}: the controls change nothing there."]
    result |= imagined_rewards(config, run, trained, world, batch, imagine)
    if (decoder := load_decoder(run, config, device)) is None:
        result.setdefault("notes", []).append("No pixel decoder is trained in this run, so imagination is not drawn.")
        return result
    drawn = write_filmstrips(
        run.path / run_files.PICTURE_FOLDER, crops, batch, errors, STRIPS, truth, imagine, decoder,
        RealFrames(config, run), store.clock, settings.context, settings.seed,
    )  # fmt: skip
    run_files.PICTURES.write(run.path, drawn)
    return result


def _held_out(config: Config, trained: Sequence[int], store: LatentStore) -> list[Episode]:
    """Held-out episodes; where there are heads, with the rewards of the first task."""
    episodes, task = store.split("held_out"), tasks_of(config)[0]
    if not config.tasks.names or trained[-1] == 1:
        return episodes
    return [e.changed(task=task.number) for e in relabelled(store, episodes, [task.name])[0]]

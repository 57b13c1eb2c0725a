"""`fastdreamer diagnose`: every check of a run's phases, as a table, as JSON, and for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.device import Backend, choose_device
from fastdreamer.health.checks import Check, worst
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.lock import alone
from fastdreamer.run.run_files import AUDIT, DIAGNOSIS, DIAGNOSIS_FOLDER
from fastdreamer.system.files import check_replaceable
from fastdreamer.system.output import in_columns
from fastdreamer.system.progress import track
from fastdreamer.tools.diagnosis import audit, cloning, inputs, real_play
from fastdreamer.tools.diagnosis import dynamics_checks as dynamics
from fastdreamer.tools.diagnosis import imagined as rollouts
from fastdreamer.tools.diagnosis import loaded_phase as models
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase, opened, run_steps
from fastdreamer.training.imagination_phase import ImaginationPhase


@alone
def diagnose(
    config: Config,
    run_dir: Path,
    phases: Sequence[int] = (),
    backend: Backend | None = None,
    effort: audit.Effort | None = None,
) -> dict[str, Any]:
    """Runs the checks of the given phases afresh, or of all that are trained; nothing of the run changes.

    With an `effort` imagination is audited against the real game too. Writes RUN/diagnosis.json, and pictures and
    audit.json under RUN/diagnosis/.

    Returns:
        {"phases": {"phase1": {"verdict", "checks": [...]}, ...}, "audit": {...}, "red": how many flags stand}.

    Raises:
        UserError: if nothing is trained, or a part of the run is missing or damaged.
    """
    run, backend = RunDirectory(run_dir), backend or choose_device(config)
    chosen = list(phases) or run.trained_phases()
    if effort is not None:
        audit.check_auditable(config, run)
    check_replaceable(*(file.path(run_dir) for file in ((DIAGNOSIS,) if effort is None else (DIAGNOSIS, AUDIT))))
    kept = DIAGNOSIS.read_or_note(run_dir, "written anew").get("phases", {})
    found: dict[str, Any] = {}
    with track("diagnose", total=len(chosen), unit="phases") as bar:
        for number in chosen:
            found[f"phase{number}"] = _phase(config, run, number, backend)
            bar.advance(1)
    result = {"phases": kept | found}
    DIAGNOSIS.write(run_dir, result)
    audited = {} if effort is None else {"audit": audit.audit(config, run, backend, effort)}
    red = sum(check["verdict"] == "red" for part in [*found.values(), *audited.values()] for check in part["checks"])
    return {"phases": found, **audited, "red": red, "pictures": str(run_dir / DIAGNOSIS_FOLDER)}


def _phase(config: Config, run: RunDirectory, number: int, backend: Backend) -> dict[str, Any]:
    if backend.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(backend.device)
    with opened(config, run, number, backend) as loaded:
        run_steps(loaded)
        imagined = rollouts.rollout(loaded, loaded.phase) if isinstance(loaded.phase, ImaginationPhase) else None
        checks = list(_checks(loaded, run.path / DIAGNOSIS_FOLDER / f"phase{number}", imagined))
        result: dict[str, Any] = {"step": loaded.checkpoint.step, "verdict": worst(checks)}
        if imagined is not None:
            result |= rollouts.figures(loaded, imagined)
    return result | {"checks": [check.to_dict() for check in checks]}


def _checks(loaded: LoadedPhase, pictures: Path, imagined: rollouts.Imagined | None) -> Iterator[Check]:
    pictures.mkdir(parents=True, exist_ok=True)
    yield from models.checks(loaded)
    if loaded.number < 3:
        yield from inputs.checks(loaded, pictures)
    if loaded.number == 2:
        yield from cloning.checks(loaded)
    if imagined is not None:
        yield from rollouts.checks(loaded, imagined)
    if loaded.number > 1:
        yield from real_play.checks(loaded)
    if loaded.number != 2:
        yield from dynamics.checks(loaded, pictures)


def render(result: dict[str, Any]) -> str:
    """The tables, what is raised below each."""
    lines = []
    for name, phase in result["phases"].items():
        rows = [("check", "value", "expected", "verdict"), *(
            (f"{c['group']}: {c['name']}", c["value"], c["expected"], c["verdict"]) for c in phase["checks"]
        )]  # fmt: skip
        lines += [f"{name}, step {phase['step']}: {phase['verdict']}", *(f"  {line}" for line in in_columns(rows))]
        lines += [f"  {c['verdict'].upper()} {c['name']}: {c['remedy']}" for c in phase["checks"] if c["remedy"]]
    if "audit" in result:
        lines += audit.render(result["audit"])
    return "\n".join([*lines, f"pictures: {result['pictures']}"])

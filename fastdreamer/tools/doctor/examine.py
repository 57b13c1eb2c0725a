"""`fastdreamer doctor`: looks at everything once and puts it together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastdreamer import __version__
from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.run.run_files import store_of
from fastdreamer.system.advice import command, plain
from fastdreamer.system.output import in_columns
from fastdreamer.tools.doctor import machine
from fastdreamer.tools.doctor.ask import Answer, Component, Task, ask, one_line
from fastdreamer.tools.doctor.libraries import OF_TORCH, at_rest, import_tasks, nsys_part, own_part, torch_parts, tried
from fastdreamer.tools.doctor.ready import Ready, commands, run_parts
from fastdreamer.tools.doctor.requirements import PACKAGE, declaration

MINECRAFT = "minerl_treechop"
"""The space whose simulator is looked for where the configuration plays none."""


def examine(name: str, overrides: Sequence[str], run_dir: Path | None = None) -> dict[str, Any]:
    """Examine the machine and everything that FastDreamer may need on it, and the parts of a run.

    Returns:
        configuration, parts (a row each), engines (a row each), commands (a row each), demo (whether it can run) and
        `refused`: what is wrong, by name, and the demo if it cannot run. Empty is exit code 0.

    Raises:
        UserError: for a mistake in the configuration.
    """
    config, configured = _configuration(name, overrides)
    declared, gpus = declaration(), machine.driver_gpus()
    resting = {one.name: at_rest(one, declared, bool(gpus)) for one in declared.libraries}
    has_torch = resting["torch"][1]
    tried_here = [one for one in declared.libraries if resting[one.name][1]]
    with_torch: list[Task] = []
    if has_torch:
        with_torch = [Task("torch", "torch", {}), Task("convolution", "convolution", {})]
        with_torch += import_tasks(tried_here, of_torch=True) + _tokenizer_tasks(config, name, overrides, run_dir)
    env, backend = (config.data.env, config.evaluation.backend) if config else (MINECRAFT, "auto")
    env = MINECRAFT if env == "crafter" else env
    simulator = Task("simulator", "simulator", {"env": env, "backend": backend})
    others = [*import_tasks(tried_here, of_torch=False), simulator]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, (with_torch, others))
    answers = first | second

    libraries = [tried(resting[one.name][0], one, answers.get(one.name)) for one in declared.libraries]
    wanted = next(one for one in declared.libraries if one.name == "torch")
    of_torch = torch_parts(resting["torch"][0], wanted, answers, gpus)
    if "torch" not in answers or answers["torch"].error:
        libraries = [_waits_for_torch(part) if part.name in OF_TORCH else part for part in libraries]
    engines, engines_part = engines_of(answers.get("engines"))
    parts = [
        machine.python_part(declared.python), own_part(__version__), configured, *of_torch,
        *(part for part in libraries if part.name != "torch"),
        machine.compiler_part("C++"), machine.compiler_part("C"), nsys_part(), simulator_of(answers["simulator"]),
        _embedded(), _weights(answers.get("weights")), engines_part,
        *(run_parts(config, run_dir) if config and run_dir else ()),
        machine.disk_part(run_dir or Path("runs")), machine.memory_part(), machine.cores_part(),
        machine.standard_library_part(), machine.python_path_part(), machine.interpreter_part(),
    ]  # fmt: skip
    rows = commands_of(config, parts, engines, any(part.name == "GPU" and part.verdict == "ok" for part in parts))
    demo = next(row for row in rows if row.command == "demo")
    refused = {part.name: part.found for part in parts if part.verdict == "wrong"}
    if demo.lacks:
        refused["demo"] = f"lacks {', '.join(demo.lacks)}"
    return {
        "configuration": name,
        "parts": [part.to_dict() for part in parts],
        "engines": engines,
        "commands": [row.to_dict() for row in rows],
        "demo": not demo.lacks,
        "refused": refused,
    }


def _configuration(name: str, overrides: Sequence[str]) -> tuple[Config | None, Component]:
    """The configuration; a broken PyYAML is a finding, a mistake in the settings is the user's."""
    try:
        return load_config(name, overrides), Component("configuration", name)
    except UserError:
        raise
    except Exception as error:  # whatever a broken library raises
        return None, Component("configuration", f"{name} cannot be read: {one_line(error)}", "wrong", "see pyyaml")


def _tokenizer_tasks(config: Config | None, name: str, overrides: Sequence[str], run_dir: Path | None) -> list[Task]:
    if config is None:
        return []
    store = store_of(config, run_dir)
    given = {"config": name, "overrides": list(overrides), "run_dir": str(run_dir) if run_dir else None}
    return [
        Task("weights", "weights", given | {"store": str(store) if store else None}),
        Task("engines", "engines", given),
    ]


def _waits_for_torch(part: Component) -> Component:
    if part.verdict == "missing":
        return part
    return Component(part.name, f"{part.found.partition(',')[0]}, needs torch", "wrong", "see torch")


def _embedded() -> Component:
    folder = PACKAGE / "tokenizer" / "embedded"
    is_there = all((folder / name).is_file() for name in ("config.json", "diffusion_pytorch_model.safetensors"))
    if is_there:
        return Component("embedded tokenizer", "there")
    return Component("embedded tokenizer", "not in the package", "wrong", "install fastdreamer again")


def _weights(answer: Answer | None) -> Component:
    if answer is None or answer.error:
        reason = answer.error if answer else "not read"
        return Component("tokenizer weights", reason, "wrong", "mend the libraries above first")
    row = answer.value
    return Component(row["part"], row["found"], row["verdict"], row["mend"])


def engines_of(answer: Answer | None) -> tuple[list[dict[str, Any]], Component]:
    """The rows of the installed engines, and the part that sums them up."""
    if answer is None or answer.error:
        why = answer.error if answer else "not read"
        return [], Component("engines", why, "wrong", "mend the libraries above first")
    value = answer.value
    rows: list[dict[str, Any]] = value["rows"]
    if value["error"]:
        return [], Component("engines", value["error"], "wrong", "or name another folder: engines.directory")
    if value["lacking"]:
        mend = f"{command('build-engines', backend=value['lacking'])}, or engines.backend=auto"
        found = f"{len(rows)} in {value['root']}, no {value['lacking']} for this machine"
        return rows, Component("engines", found, "missing", mend)
    bad = [row for row in rows if row["mend"]]
    if bad:
        found = f"{len(rows)} in {value['root']}, {len(bad)} unusable"
        return rows, Component("engines", found, "wrong", bad[0]["mend"])
    return rows, Component("engines", f"{len(rows)} in {value['root']}" if rows else "none: eager runs the tokenizer")


def simulator_of(answer: Answer) -> Component:
    """The part of Minecraft: its simulator, or the first thing that is missing for it."""
    if answer.error:
        return Component("Minecraft", answer.error, "wrong")
    if "missing" not in answer.value:
        return Component("Minecraft", str(answer.value["backend"]))
    said, separator, mend = answer.value["missing"].partition("; ")
    if not separator:
        said, _, mend = said.partition(": ")
    return Component("Minecraft", said, "missing", mend)


def commands_of(
    config: Config | None, parts: Sequence[Component], engines: Sequence[Mapping[str, Any]], has_gpu: bool
) -> list[Ready]:
    """Every command; a bad engine that nothing here would load keeps none of them from running."""
    known = {part.name: part for part in parts}
    if engines and known["engines"].verdict == "wrong" and not any(row["blocks"] for row in engines):
        known["engines"] = Component("engines", "none that commands here would take is unusable")
    return commands(config, known, has_gpu)


def render(found: Mapping[str, Any]) -> str:
    """The report. What mends a part stands under it; with a command it is repeated unless it names a path."""
    lines = in_columns([[row["verdict"], row["part"], row["found"]] for row in found["parts"]])
    text = ["parts", *_with_mends(lines, found["parts"])]
    if found["engines"]:
        columns = ("state", "part", "backend", "target", "precision", "reason")
        rows = in_columns([[str(row[column]) for column in columns] for row in found["engines"]])
        text += ["", "engines", *_with_mends(rows, found["engines"])]
    text += ["", "commands", *in_columns([_command(row) for row in found["commands"]])]
    wrong = [name for name in found["refused"] if name != "demo"]
    text += ["", f"wrong: {', '.join(wrong) or 'nothing'}; {plain('demo')} {'can' if found['demo'] else 'cannot'} run"]
    return "\n".join(text)


def _with_mends(lines: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for line, row in zip(lines, rows, strict=True):
        yield line
        if row["mend"]:
            yield f"{'':9}-> {row['mend']}"


def _command(row: Mapping[str, Any]) -> list[str]:
    if row["ready"]:
        return ["ready", row["command"], row["note"]]
    mends = [mend if "/" not in mend else "see above" for mend in row["mend"]]
    needs = f"needs {', '.join(row['lacks'])}"
    return ["not yet", row["command"], needs + (f": {'; '.join(dict.fromkeys(mends))}" if mends else "")]

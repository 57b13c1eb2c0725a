"""Commands that can run here, and what each of the others lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.run.run_files import checkpoints_of, recordings_of, store_of
from fastdreamer.system.advice import command
from fastdreamer.tools.doctor.ask import Component

CORE = ("Python", "torch", "numpy", "pyyaml", "safetensors", "jaxtyping", "memory")
VIDEO = ("av",)
TOKENIZER = ("diffusers", "tokenizer weights", "engines")
DEMO = (*CORE, *VIDEO, "crafter", "diffusers", "embedded tokenizer", "disk for runs")
NEEDS: dict[str, tuple[str, ...]] = {
    "demo": DEMO,
    "record": (*CORE, *VIDEO, "crafter"),
    "inspect": (*CORE, *VIDEO, "pillow"),
    "fit-tokenizer": (*CORE, *VIDEO, "diffusers"),
    "fetch-weights": (*CORE, "huggingface-hub"),
    "build-engines": (*CORE, "diffusers", "tokenizer weights"),
    "build-engines --target sm86": (*CORE, "diffusers", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx"),
    "encode": (*CORE, *VIDEO, *TOKENIZER, "recordings", "disk for runs"),
    "train": (*CORE, "latent store", "disk for runs"),
    "plan": CORE,
    "profile": CORE,
    "diagnose": (*CORE, "phases", "latent store"),
    "profile --tool pyspy": (*CORE, "py-spy"),
    "profile --tool nsys": (*CORE, "nsys", "GPU"),
    "eval": (*CORE, *VIDEO, *TOKENIZER, "phases", "latent store"),
    "report": ("Python", "numpy", "pyyaml", "jaxtyping"),
}
REFERS = ("see ", "mend the ")
"""Lines of parts that only suffer from another, whose own line is there too."""


@dataclass(frozen=True)
class Ready:
    """A command: what it lacks by name, the lines that mend it, and what else is to be known."""

    command: str
    lacks: tuple[str, ...]
    mends: tuple[str, ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The command's state as plain values, for JSON."""
        ready = {"command": self.command, "ready": not self.lacks, "lacks": list(self.lacks)}
        return ready | {"mend": list(self.mends), "note": self.note}


def commands(config: Config | None, parts: Mapping[str, Component], has_gpu: bool) -> list[Ready]:
    """Every command with what it lacks; a part that was not looked for (a run's, without a run) counts as there."""
    rows = []
    if config is not None and config.data.env != "crafter":
        only = Component("data.env", config.data.env, "missing", "only crafter is recorded here: --config crafter")
        parts = {**parts, "data.env": only}
    for name, needs in NEEDS.items():
        extra, note = _besides(name, config, parts, has_gpu)
        lacking = [parts[part] for part in (*needs, *extra) if part in parts and parts[part].verdict != "ok"]
        names, mends = (
            (part.name for part in lacking),
            (part.mend for part in lacking if part.mend and not part.mend.startswith(REFERS)),
        )
        rows.append(Ready(name, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(mends)), note))
    return rows


def run_parts(config: Config, run_dir: Path) -> list[Component]:
    """What lies in a run: recordings, latents, trained phases; each with the command that makes it."""
    recordings, store = recordings_of(config, run_dir), store_of(config, run_dir)
    has_recordings = recordings.is_dir() and any(recordings.iterdir())
    phases = [n for n in (1, 2, 3) if any(checkpoints_of(run_dir, n).glob("step-*"))]
    play = command("record", out=recordings) if config.data.env == "crafter" else "set data.recordings"
    encode, train = command("encode", run_dir=run_dir), command("train", run_dir=run_dir, phase=1)
    has = {"recordings": has_recordings, "latent store": (store / "manifest.json").is_file()}
    found = {"recordings": play, "latent store": encode}
    parts = [
        Component(what, "there") if has[what] else Component(what, "", "missing", line) for what, line in found.items()
    ]
    trained = f"trained: {', '.join(map(str, phases))}"
    return [*parts, Component("phases", trained) if phases else Component("phases", "", "missing", train)]


def _besides(
    command: str, config: Config | None, parts: Mapping[str, Component], has_gpu: bool
) -> tuple[list[str], str]:
    """What a command needs besides under this configuration on this machine; and a note."""
    if config is None:
        return ["configuration"], ""
    on_gpu = has_gpu and config.device != "cpu"
    needs: list[str] = []
    if command in ("train", "demo", "profile"):
        if on_gpu:
            needs += ["triton", "C compiler"]
        elif config.compile == "on":
            needs.append("C++ compiler")
    if command == "build-engines":
        needs.append("C++ compiler")
    if command == "record":
        needs.append("data.env")
    if command == "demo" and config.tokenizer.weights == "embedded":
        needs.append("engines")
    if command == "eval" and config.data.env == "crafter":
        needs.append("crafter")
    if command == "eval" and config.data.env != "crafter" and parts["Minecraft"].verdict != "ok":
        if config.evaluation.backend != "auto":
            return [*needs, "Minecraft"], ""
        return needs, "nothing is played, the world model alone is evaluated: see Minecraft"
    return needs, ""

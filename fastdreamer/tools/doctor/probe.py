"""The process that imports: tasks one after the other, an answer a line, so that a crash or a hang names its task.

Run by `ask`, as `python -I -c "import sys; sys.path[:] = ...; ..."`, with the search path of the command itself.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastdreamer.system.failures import culprit, mend
from fastdreamer.tools.doctor.ask import one_line

CONVOLUTION_LIMIT = 1e-2
"""Relative; bf16 keeps 8 bits, so a sound convolution is off by 2e-3, and cuDNN 9.8 to 9.10 by far more."""


def main() -> None:
    """Answers the tasks in argv[1], a JSON list of [name, kind, arguments], on what was stdout."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)  # libraries print when they are imported
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for name, kind, arguments in json.loads(sys.argv[1]):
        print(json.dumps({"begin": name}), file=said, flush=True)
        try:
            answer: dict[str, Any] = {"answer": KINDS[kind](**arguments)}
        except BaseException as error:  # noqa: BLE001 - a library may raise anything at import, SystemExit included
            answer = {"error": one_line(error), "answer": _mended(arguments.get("target", ""), error)}
        print(json.dumps({"name": name} | answer), file=said, flush=True)
    said.flush()
    os._exit(0)  # some libraries crash when they are unloaded


def _mended(target: str, error: BaseException) -> dict[str, Any]:
    """The line that mends another library than the one whose import was tried; of that one the caller knows more."""
    wanted = re.split("[.:]", target)[0]
    return {"mend": mend(wanted, error)} if wanted and culprit(error)[0] not in ("", wanted) else {}


def import_module(target: str) -> dict[str, Any]:
    """`module`, or `module:attribute` for one that imports its parts late."""
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    if attribute:
        getattr(found, attribute)
    return {}


def torch_facts() -> dict[str, Any]:
    """What torch was built for, and the GPU it sees; a CUDA context is made where there is a GPU, and only there."""
    import torch

    facts: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda, "GPU": None, "cudnn": None}
    if torch.version.cuda is None:
        return facts
    try:
        facts["cudnn"] = torch.backends.cudnn.version()
    except RuntimeError as error:  # another cuDNN on the library path than torch was built with
        facts["cudnn_error"] = one_line(error)
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        capability = f"{gpu.major}.{gpu.minor}"
        facts["GPU"] = {"name": gpu.name, "gib": gpu.total_memory / 2**30, "capability": capability}
    return facts


def convolution() -> dict[str, Any]:
    """One conv3d of the tokenizer's kind in bf16, on the GPU or else on the CPU, against fp32 on the CPU."""
    import torch
    from torch.nn.functional import conv3d

    has_gpu = torch.cuda.is_available()
    channels, frames, size = (64, 9, 32) if has_gpu else (16, 5, 16)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, channels, frames, size, size, generator=generator).bfloat16()
    weight = torch.randn(channels, channels, 3, 3, 3, generator=generator).div((27 * channels) ** 0.5).bfloat16()
    device = torch.device("cuda" if has_gpu else "cpu")
    with torch.inference_mode():
        exact = conv3d(inputs.float(), weight.float())
        found = conv3d(inputs.to(device), weight.to(device)).float().cpu()
    error = float((found - exact).norm() / exact.norm())
    return {"error": error, "is_sound": error <= CONVOLUTION_LIMIT, "on_gpu": has_gpu}


def weights(config: str, overrides: list[str], run_dir: str | None, store: str | None) -> dict[str, Any]:
    """The row of the tokenizer's weights."""
    from fastdreamer.config import load_config
    from fastdreamer.system.advice import Call, running
    from fastdreamer.tools.doctor.tokenizer_component import weights_part

    with running(Call((), {"config": config, "run_dir": run_dir}, overrides)):
        return weights_part(load_config(config, overrides), Path(store) if store else None).to_dict()


def engines(config: str, overrides: list[str], run_dir: str | None) -> dict[str, Any]:
    """Installed engines with their states."""
    from fastdreamer.config import load_config
    from fastdreamer.system.advice import Call, running
    from fastdreamer.tools.doctor.tokenizer_component import engine_rows

    with running(Call((), {"config": config, "run_dir": run_dir}, overrides)):
        return engine_rows(load_config(config, overrides))


def simulator(env: str, backend: str) -> dict[str, Any]:
    """The simulator that plays Minecraft here, or what is missing for it."""
    from fastdreamer.envs.minecraft_backends import MinecraftError, find_backend

    try:
        return {"backend": find_backend(env, backend)}
    except MinecraftError as error:
        return {"missing": str(error)}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "import": import_module,
    "torch": torch_facts,
    "convolution": convolution,
    "weights": weights,
    "engines": engines,
    "simulator": simulator,
}

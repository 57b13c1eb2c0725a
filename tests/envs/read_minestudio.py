"""What the stand-in for MineStudio is made after, read from its source without running it.

pip download minestudio==1.1.6 --no-deps && unzip minestudio-1.1.6-py3-none-any.whl -d minestudio-source
python tests/envs/read_minestudio.py minestudio-source > tests/envs/minestudio_1_1_6.json
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any


def read_minestudio(folder: Path) -> dict[str, Any]:
    """Facts of the unpacked wheel in `folder`: constructor defaults, spaces, keys, engine, how Java is started."""
    simulator = folder / "minestudio" / "simulator"
    entry = ast.parse((simulator / "entry.py").read_text(encoding="utf-8"))
    methods = {
        node.name: node
        for body in ast.walk(entry)
        if isinstance(body, ast.ClassDef) and body.name == "MinecraftSim"
        for node in body.body
        if isinstance(node, ast.FunctionDef)
    }
    arguments = methods["__init__"].args
    plain = [argument.arg for argument in arguments.args][-len(arguments.defaults) :]
    spaces = [_calls(node) for node in ast.walk(methods["action_space"]) if isinstance(node, ast.Dict)]
    engine = next(
        "/".join(part.value for part in node.args if isinstance(part, ast.Constant))
        for node in ast.walk(entry)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.path.join" and "mcprec" in ast.unparse(node)
    )
    script = (simulator / "minerl" / "env" / "launchClient.sh").read_text(encoding="utf-8")
    environment = (simulator / "minerl" / "env" / "_multiagent.py").read_text(encoding="utf-8")
    return {
        "version": next(folder.glob("minestudio-*.dist-info")).name.split("-")[1].removesuffix(".dist"),
        "init": dict(zip(plain, [ast.unparse(value) for value in arguments.defaults], strict=True)),
        "agent_action_space": spaces[0],
        "env_action_space": spaces[1],
        "reset_returns": ast.unparse(_last_return(methods["reset"])),
        "step_returns": ast.unparse(_last_return(methods["step"])),
        "image": next(
            ast.unparse(node.value) for node in ast.walk(methods["_wrap_obs_info"])
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_obs"
        ),
        "keyboard": _keyboard(simulator),
        "engine": engine,
        "starts": re.findall(r"^\s*((?:xvfb-run|vglrun) .*)$", script, flags=re.MULTILINE),
        "forgets_its_seed_at_reset": "self._seed = None" in environment.split("def reset(")[1].split("def ")[0],
        "an_error_is_in_info": '{"error": "Connection timed out!"}' in environment,
    }  # fmt: skip


def _calls(node: ast.Dict) -> dict[str, str]:
    return {
        str(ast.literal_eval(key)): ast.unparse(value).removeprefix("gymnasium.spaces.")
        for key, value in zip(node.keys, node.values, strict=True)
        if key is not None
    }


def _last_return(function: ast.FunctionDef) -> ast.expr:
    return [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None][-1]


def _keyboard(simulator: Path) -> list[str]:
    constants = ast.parse((simulator / "minerl" / "herobraine" / "hero" / "mc.py").read_text(encoding="utf-8"))
    return next(
        list(ast.literal_eval(node.value))
        for node in constants.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SIMPLE_KEYBOARD_ACTION"
    )


if __name__ == "__main__":
    print(json.dumps(read_minestudio(Path(sys.argv[1])), indent=1))

"""The libraries: installed once, in a version that is accepted, hidden by nothing, and importable."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdreamer.system.advice import pip, shell
from fastdreamer.tools.doctor.ask import Answer, Component, Task
from fastdreamer.tools.doctor.machine import Gpu
from fastdreamer.tools.doctor.requirements import (
    PACKAGE,
    Declaration,
    Requirement,
    accepts,
    installed_versions,
    is_installed_place,
    places,
)

MODULES = {"pyyaml": "yaml", "pillow": "PIL", "nvidia-dali-cuda130": "nvidia.dali", "tensorrt-cu13": "tensorrt"}
"""Modules that are not called as their distribution is."""
IMPORTS = {"diffusers": "diffusers:AutoencoderKLCosmos", "tensorboard": "torch.utils.tensorboard:SummaryWriter"}
"""What is imported to try a library, where that is not its module."""
OF_TORCH = ("diffusers", "tensorboard", "torch-tensorrt")
OF_GPUS = ("tensorrt-cu13", "torch-tensorrt")
"""Their import needs a driver."""
PROGRAMS = ("py-spy",)
CUDNN = 91500
"""9.15.0 as torch counts it: 9.8 to 9.10 give silently wrong bf16 conv3d."""
BAD_TORCH = ("2.9", "its conv3d is slow and takes much memory, and its cuDNN is silently wrong in bf16")
APT = ("apt-get", "install", "nsight-systems-cli")
NSYS = f"install Nsight Systems from its web page, or from NVIDIA's package source: {shell(*APT)}"


def module_of(name: str) -> str:
    """The name that `import` takes."""
    return MODULES.get(name, name.replace("-", "_"))


def at_rest(requirement: Requirement, declared: Declaration, has_gpu: bool) -> tuple[Component, bool]:
    """What is known of a library without importing it, and whether it is worth trying."""
    name, versions = requirement.name, installed_versions(requirement.name)
    if name in PROGRAMS:
        return _program(requirement, declared, versions), False
    hidden = places(module_of(name))
    again = pip("--force-reinstall", requirement.pip)
    if not versions and not hidden:
        return Component(name, "", "missing", declared.install(requirement)), False
    if len(versions) > 1:
        mend = f"{_uninstall(name)}, until it says that none is installed; then {again}"
        return Component(name, f"{len(versions)} versions: {' and '.join(versions)}", "wrong", mend), False
    if len(hidden) > 1 or not versions:
        return _shadowed(name, versions, hidden, again), False
    found = versions[0]
    if not accepts(requirement.versions, found):
        known = f": {BAD_TORCH[1]}" if name == "torch" and found.startswith(f"{BAD_TORCH[0]}.") else ""
        said = f"{found}, wanted {requirement.versions}{known}"
        return Component(name, said, "wrong", pip(requirement.pip)), False
    if name in OF_GPUS and not has_gpu:
        return Component(name, f"{found}; not tried, which takes a GPU"), False
    return Component(name, found), True


def import_tasks(requirements: Sequence[Requirement], of_torch: bool) -> list[Task]:
    """Imports of the libraries that need torch, or of the others; torch itself has a task of its own."""
    names = [one.name for one in requirements if one.name != "torch" and (one.name in OF_TORCH) == of_torch]
    return [Task(name, "import", {"target": IMPORTS.get(name, module_of(name))}) for name in names]


def tried(part: Component, requirement: Requirement, answer: Answer | None) -> Component:
    """The part after its import was tried."""
    if answer is None or not answer.error:
        return part
    mend = answer.value.get("mend") or pip("--force-reinstall", requirement.pip)
    return Component(part.name, f"{part.found}, cannot be imported: {answer.error}", "wrong", mend)


def torch_parts(
    part: Component, requirement: Requirement, answers: Mapping[str, Answer], gpus: Sequence[Gpu]
) -> list[Component]:
    """torch with what it was built for, the GPU, cuDNN and the convolution that cuDNN has got wrong before.

    `part` is torch as it lies on the disk; the tasks `torch` and `convolution` may not have been asked.
    """
    part = tried(part, requirement, answers.get("torch"))
    facts = answers["torch"].value if "torch" in answers else {}
    if not facts:
        seen = "; ".join(map(str, gpus)) or "none that the driver's nvidia-smi shows"
        unknown = [Component(name, "not tried: torch does not load", "missing") for name in ("cuDNN", "conv3d in bf16")]
        return [part, Component("GPU", seen, "ok" if gpus else "missing"), *unknown]
    built = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for the CPU"
    part = Component(part.name, f"{part.found}, {built}", part.verdict, part.mend)
    if gpus and not facts["cuda"]:
        mend = pip("--isolated", "--force-reinstall", requirement.pip)
        part = Component(part.name, f"{part.found}, beside a GPU", "wrong", mend)
    return [part, _gpu(facts, gpus), _cudnn(facts, requirement), _convolution(answers.get("convolution"))]


def _gpu(facts: Mapping[str, Any], gpus: Sequence[Gpu]) -> Component:
    gpu = facts["GPU"]
    if gpu:
        driver = f", driver {gpus[0].driver}" if gpus else ""
        found = f"{gpu['name']}, {gpu['gib']:.1f} GiB, compute capability {gpu['capability']}{driver}"
        return Component("GPU", found)
    if not gpus:
        return Component("GPU", "none: everything runs on the CPU, smaller", "missing")
    found = "; ".join(map(str, gpus))
    if not facts["cuda"]:
        return Component("GPU", f"{found}; not used: see torch")
    mend = f"unset CUDA_VISIBLE_DEVICES, or install a driver for CUDA {facts['cuda']}"
    return Component("GPU", f"{found}; torch sees none", "wrong", mend)


def _cudnn(facts: Mapping[str, Any], requirement: Requirement) -> Component:
    again = pip("--isolated", "--force-reinstall", requirement.pip)
    if facts.get("cudnn_error"):
        return Component("cuDNN", facts["cudnn_error"], "wrong", f"unset LD_LIBRARY_PATH; or {again}")
    version = facts["cudnn"]
    if version is None:
        return Component("cuDNN", "none in a build for the CPU")
    found = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    if version < CUDNN:
        return Component("cuDNN", f"{found}, wanted >=9.15: bf16 conv3d may be silently wrong", "wrong", again)
    return Component("cuDNN", found)


def _convolution(answer: Answer | None) -> Component:
    name = "conv3d in bf16"
    if answer is None or answer.error:
        reason = answer.error if answer else "not tried"
        return Component(name, reason, "wrong", "precision=fp32, until it runs")
    where = "on the GPU" if answer.value["on_gpu"] else "on the CPU, where this only checks the probe"
    found = f"{answer.value['error']:.1e} off fp32 {where}"
    if answer.value["is_sound"]:
        return Component(name, found)
    return Component(
        name, f"{found}: silently wrong", "wrong", f"precision=fp32, and another cuDNN: {pip('-U', 'torch')}"
    )


def _program(requirement: Requirement, declared: Declaration, versions: Sequence[str]) -> Component:
    beside = Path(sys.executable).parent / requirement.name
    if not beside.is_file() and shutil.which(requirement.name) is None:
        return Component(requirement.name, "", "missing", declared.install(requirement))
    if versions and not accepts(requirement.versions, versions[0]):
        found = f"{versions[0]}, wanted {requirement.versions}"
        return Component(requirement.name, found, "wrong", pip(requirement.pip))
    return Component(requirement.name, versions[0] if versions else "on the PATH")


def _shadowed(name: str, versions: Sequence[str], hidden: Sequence[Path], again: str) -> Component:
    """Something else has the library's name: what is taken first, and what lies behind it."""
    first = hidden[0]
    if not versions:
        return Component(
            name, f"{first} has its name, and the library is not installed", "wrong", f"rename it; {again}"
        )
    behind = f"{versions[0]} behind it" + (f", in {hidden[1].parent}" if is_installed_place(first) else "")
    mend = f"{_uninstall(name)}, then {again}" if is_installed_place(first) else "rename it, or start elsewhere"
    return Component(name, f"{first} is taken, {behind}", "wrong", mend)


def own_part(version: str) -> Component:
    """FastDreamer itself: which copy runs, and whether another one is on the search path."""
    others = [place for place in places("fastdreamer") if place.resolve() != PACKAGE]
    found = f"{version} in {PACKAGE.parent}"
    if not others:
        return Component("fastdreamer", found)
    behind = ", ".join(str(place.parent) for place in others)
    mend = f"keep one: {_uninstall('fastdreamer')}, or leave the other off PYTHONPATH"
    return Component("fastdreamer", f"{found}; another in {behind}", "wrong", mend)


def _uninstall(name: str) -> str:
    return shell("pip", "uninstall", "-y", name)


def nsys_part() -> Component:
    """Nsight Systems, for `profile --tool nsys`."""
    found = shutil.which("nsys")
    return Component("nsys", found) if found else Component("nsys", "", "missing", NSYS)

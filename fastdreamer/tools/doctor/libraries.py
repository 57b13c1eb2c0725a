"""The libraries: installed once, in a version that is accepted, hidden by nothing, and importable."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdreamer.system.advice import pip, shell
from fastdreamer.tools.doctor.ask import Answer, Task
from fastdreamer.tools.doctor.component import Part
from fastdreamer.tools.doctor.machine import Card
from fastdreamer.tools.doctor.places import installed_versions, is_installed_place, places
from fastdreamer.tools.doctor.requirements import PACKAGE, Declaration, Requirement, accepts

MODULES = {"pyyaml": "yaml", "pillow": "PIL", "nvidia-dali-cuda130": "nvidia.dali", "tensorrt-cu13": "tensorrt"}
"""Where the module is not called as the distribution is."""
IMPORTS = {"diffusers": "diffusers:AutoencoderKLCosmos", "tensorboard": "torch.utils.tensorboard:SummaryWriter"}
"""What is imported to try a library, where that is not its module."""
OF_TORCH = ("diffusers", "tensorboard", "torch-tensorrt")
OF_CARDS = ("tensorrt-cu13", "torch-tensorrt")
"""Their import needs a driver."""
PROGRAMS = ("py-spy",)
CUDNN = 91500
"""9.15.0 as torch counts it: 9.8 to 9.10 give silently wrong bf16 conv3d."""
BAD_TORCH = ("2.9", "its conv3d is slow and takes much memory, and its cuDNN is silently wrong in bf16")
APT = ("apt-get", "install", "nsight-systems-cli")
NSYS = f"install Nsight Systems from its web page, or from NVIDIA's package source: {shell(*APT)}"


def module_of(name: str) -> str:
    """What `import` takes."""
    return MODULES.get(name, name.replace("-", "_"))


def at_rest(requirement: Requirement, declared: Declaration, has_card: bool) -> tuple[Part, bool]:
    """What is known of a library without importing it, and whether it is worth trying."""
    name, versions = requirement.name, installed_versions(requirement.name)
    if name in PROGRAMS:
        return _program(requirement, declared, versions), False
    hidden = places(module_of(name))
    again = pip("--force-reinstall", requirement.pip)
    if not versions and not hidden:
        return Part(name, "", "missing", declared.install(requirement)), False
    if len(versions) > 1:
        mend = f"{_uninstall(name)}, until it says that none is installed; then {again}"
        return Part(name, f"{len(versions)} versions: {' and '.join(versions)}", "wrong", mend), False
    if len(hidden) > 1 or not versions:
        return _shadowed(name, versions, hidden, again), False
    found = versions[0]
    if not accepts(requirement.versions, found):
        known = f": {BAD_TORCH[1]}" if name == "torch" and found.startswith(f"{BAD_TORCH[0]}.") else ""
        said = f"{found}, wanted {requirement.versions}{known}"
        return Part(name, said, "wrong", pip(requirement.pip)), False
    if name in OF_CARDS and not has_card:
        return Part(name, f"{found}; not tried, which takes a card"), False
    return Part(name, found), True


def import_tasks(requirements: Sequence[Requirement], of_torch: bool) -> list[Task]:
    """Imports of the libraries that need torch, or of the others; torch itself has a task of its own."""
    names = [one.name for one in requirements if one.name != "torch" and (one.name in OF_TORCH) == of_torch]
    return [Task(name, "import", {"target": IMPORTS.get(name, module_of(name))}) for name in names]


def tried(part: Part, requirement: Requirement, answer: Answer | None) -> Part:
    """The part after its import was tried."""
    if answer is None or not answer.error:
        return part
    mend = answer.value.get("mend") or pip("--force-reinstall", requirement.pip)
    return Part(part.name, f"{part.found}, cannot be imported: {answer.error}", "wrong", mend)


def torch_parts(
    part: Part, requirement: Requirement, answers: Mapping[str, Answer], cards: Sequence[Card]
) -> list[Part]:
    """torch with what it was built for, the card, cuDNN and the convolution that cuDNN has got wrong before.

    Args:
        part: torch as it lies on the disk.
        requirement: torch's.
        answers: to the tasks `torch` and `convolution`, if they were asked.
        cards: those that the driver knows.
    """
    part = tried(part, requirement, answers.get("torch"))
    facts = answers["torch"].value if "torch" in answers else {}
    if not facts:
        seen = "; ".join(map(str, cards)) or "none that the driver's nvidia-smi shows"
        unknown = [Part(name, "not tried: torch does not load", "missing") for name in ("cuDNN", "conv3d in bf16")]
        return [part, Part("card", seen, "ok" if cards else "missing"), *unknown]
    built = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for the CPU"
    part = Part(part.name, f"{part.found}, {built}", part.verdict, part.mend)
    if cards and not facts["cuda"]:
        mend = pip("--isolated", "--force-reinstall", requirement.pip)
        part = Part(part.name, f"{part.found}, beside a card", "wrong", mend)
    return [part, _card(facts, cards), _cudnn(facts, requirement), _convolution(answers.get("convolution"))]


def _card(facts: Mapping[str, Any], cards: Sequence[Card]) -> Part:
    card = facts["card"]
    if card:
        driver = f", driver {cards[0].driver}" if cards else ""
        found = f"{card['name']}, {card['gib']:.1f} GiB, compute capability {card['capability']}{driver}"
        return Part("card", found)
    if not cards:
        return Part("card", "none: everything runs on the CPU, smaller", "missing")
    found = "; ".join(map(str, cards))
    if not facts["cuda"]:
        return Part("card", f"{found}; not used: see torch")
    mend = f"unset CUDA_VISIBLE_DEVICES, or install a driver for CUDA {facts['cuda']}"
    return Part("card", f"{found}; torch sees none", "wrong", mend)


def _cudnn(facts: Mapping[str, Any], requirement: Requirement) -> Part:
    again = pip("--isolated", "--force-reinstall", requirement.pip)
    if facts.get("cudnn_error"):
        return Part("cuDNN", facts["cudnn_error"], "wrong", f"unset LD_LIBRARY_PATH; or {again}")
    version = facts["cudnn"]
    if version is None:
        return Part("cuDNN", "none in a build for the CPU")
    found = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    if version < CUDNN:
        return Part("cuDNN", f"{found}, wanted >=9.15: bf16 conv3d may be silently wrong", "wrong", again)
    return Part("cuDNN", found)


def _convolution(answer: Answer | None) -> Part:
    name = "conv3d in bf16"
    if answer is None or answer.error:
        reason = answer.error if answer else "not tried"
        return Part(name, reason, "wrong", "precision=fp32, until it runs")
    where = "on the card" if answer.value["on_card"] else "on the CPU, where this only checks the probe"
    found = f"{answer.value['error']:.1e} off fp32 {where}"
    if answer.value["is_sound"]:
        return Part(name, found)
    return Part(name, f"{found}: silently wrong", "wrong", f"precision=fp32, and another cuDNN: {pip('-U', 'torch')}")


def _program(requirement: Requirement, declared: Declaration, versions: Sequence[str]) -> Part:
    beside = Path(sys.executable).parent / requirement.name
    if not beside.is_file() and shutil.which(requirement.name) is None:
        return Part(requirement.name, "", "missing", declared.install(requirement))
    if versions and not accepts(requirement.versions, versions[0]):
        found = f"{versions[0]}, wanted {requirement.versions}"
        return Part(requirement.name, found, "wrong", pip(requirement.pip))
    return Part(requirement.name, versions[0] if versions else "on the PATH")


def _shadowed(name: str, versions: Sequence[str], hidden: Sequence[Path], again: str) -> Part:
    """Something else has the library's name: what is taken first, and what lies behind it."""
    first = hidden[0]
    if not versions:
        return Part(name, f"{first} has its name, and the library is not installed", "wrong", f"rename it; {again}")
    behind = f"{versions[0]} behind it" + (f", in {hidden[1].parent}" if is_installed_place(first) else "")
    mend = f"{_uninstall(name)}, then {again}" if is_installed_place(first) else "rename it, or start elsewhere"
    return Part(name, f"{first} is taken, {behind}", "wrong", mend)


def own_part(version: str) -> Part:
    """FastDreamer itself: which copy runs, and whether another one is on the search path."""
    others = [place for place in places("fastdreamer") if place.resolve() != PACKAGE]
    found = f"{version} in {PACKAGE.parent}"
    if not others:
        return Part("fastdreamer", found)
    behind = ", ".join(str(place.parent) for place in others)
    mend = f"keep one: {_uninstall('fastdreamer')}, or leave the other off PYTHONPATH"
    return Part("fastdreamer", f"{found}; another in {behind}", "wrong", mend)


def _uninstall(name: str) -> str:
    return shell("pip", "uninstall", "-y", name)


def nsys_part() -> Part:
    """Nsight Systems, for `profile --tool nsys`."""
    found = shutil.which("nsys")
    return Part("nsys", found) if found else Part("nsys", "", "missing", NSYS)

"""What is run on a GPU, in order of worth: the first parts say whether the rest means anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastdreamer.system import advice

Kind = Literal["tests", "suite", "gate", "lines"]
"""How a part's end is read: pytest's summary, a suite's rows, the gate's red lines, or verdicts alone."""

SMALL_GPU_GB = 12.0
"""What the reference preset is promised to run in; a larger GPU is held to it where memory is measured."""
SHARE = 0.95
"""The share of a GPU that any other part may take: what runs out ends in torch's error, not in the driver's."""
TRAINS = ("torch", "jaxtyping", "numpy", "safetensors", "yaml")
TESTS = ("pytest", "torch", "jaxtyping")


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        name: what `--parts` calls it.
        about: the question that it answers.
        kind: how its end is read.
        module: run as `python -m`, with `words`, in which {device}, {memory} and {out} are filled in.
        real: words for a GPU alone.
        tiny: words for a dry run alone.
        needs: what it imports that is not ours.
        limit_s: seconds after which it is ended.
        memory_gb: what it may take; 0 is `SHARE` of the GPU.
        gpus: how many it needs; a dry run needs none.
        is_interpreted: a dry run takes the kernels through Triton's interpreter, which needs NumPy.
    """

    name: str
    about: str
    kind: Kind
    module: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    limit_s: float
    real: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    memory_gb: float = 0.0
    gpus: int = 1
    is_interpreted: bool = False

    def wants(self, is_dry: bool) -> tuple[str, ...]:
        """Libraries without which it is left out."""
        return (*self.needs, "numpy") if is_dry and self.is_interpreted else self.needs

    def command(self, is_dry: bool, device: str, memory: float, out: str) -> list[str]:
        """Words behind `python -m`."""
        given = (*self.words, *(self.tiny if is_dry else self.real))
        return [self.module, *(word.format(device=device, memory=f"{memory:g}", out=out) for word in given)]


def tests(
    name: str, about: str, path: str, needs: tuple[str, ...], limit_s: float, conftest: str = "", whole: str = "",
    is_interpreted: bool = False,
) -> Part:  # fmt: skip
    """Tests that need a GPU. A dry run takes each up to the driver, and those named like `whole` to their end.

    Args:
        conftest: the folder whose conftest counts; without one none does.
    """
    scope = f"--confcutdir={conftest}" if conftest else "--noconftest"
    words = ("-q", "-p", "no:cacheprovider", "--tb=short", scope, path)
    tiny = ("-p", "bench.gpu.driverless", "-m", "", "--whole", whole)
    return Part(
        name, about, "tests", "pytest", words, (*TESTS, *needs), limit_s, real=("-m", "gpu"),
        tiny=tiny, is_interpreted=is_interpreted,
    )  # fmt: skip


def suite(
    name: str, about: str, which: str, needs: tuple[str, ...], limit_s: float, real: str = "", tiny: str = "",
    memory_gb: float = 0.0,
) -> Part:  # fmt: skip
    """A benchmark of `bench.suites`; `real` and `tiny` are its options on a GPU and in a dry run."""
    words = (which, "--device", "{device}", "--out", "{out}", *(("--memory-gb", "{memory}") if memory_gb else ()))
    found = tuple(real.split()), tuple(tiny.split())
    return Part(name, about, "suite", "bench.suites", words, needs, limit_s, *found, memory_gb=memory_gb)


DALI = "nvidia.dali"
PARTS: tuple[Part, ...] = (
    tests(
        "kernels", "the kernels against fp64", "tests/kernels", ("triton",), 90, "tests/kernels",
        "equal_logits,small_weights,row_major", is_interpreted=True,
    ),
    Part(
        "phases", "whether each phase trains", "lines", "bench.gpu.phases", ("--device", "{device}"),
        (*TRAINS, "triton"), 120, real=("--steps", "20"), tiny=("--steps", "2"),
    ),
    tests(
        "steps", "steps that do not wait, keep no memory, compile to the same", "tests/training/test_steps_on_gpu.py",
        TRAINS[2:], 120, whole="pieces",
    ),
    tests(
        "rollouts", "captured rollouts, bit for bit", "tests/imagination/test_program_on_gpu.py",
        TRAINS[2:], 120, whole="merged_commits",
    ),
    tests(
        "batches", "batches cut on the GPU", "tests/latents/test_sampling_on_gpu.py", TRAINS[2:4], 30, "tests/latents",
    ),
    Part(
        "memory", "peaks of minerl_cosmos in 12 GB against the plan", "lines", "bench.gpu.memory",
        ("--device", "{device}", "--memory-gb", "{memory}"), TRAINS, 90, real=("--config", "minerl_cosmos"),
        tiny=("--config", "debug"), memory_gb=SMALL_GPU_GB,
    ),
    suite(
        "kernel-times", "two-hot and pool against eager, compile and copy", "kernels", ("torch", "triton", "jaxtyping"),
        120, tiny="--arms eager,kernel --pairs 2",
    ),
    suite(
        "step-times", "steps of each phase, with MFU", "training_step", TRAINS, 120,
        "--config minerl_cosmos --arms eager,compiled,naive --crops 16",
        "--config debug --arms eager,naive --crops 2 dynamics.layers=2 imagination.horizon=2", SMALL_GPU_GB,
    ),
    suite(
        "rollout-times", "captured rollout against eager", "imagination", TRAINS, 120,
        "--config minerl_cosmos --rollouts 64,1 --arms merged,captured,captured-horizon,compiled-captured",
        "--config debug --rollouts 2 --arms merged,captured,captured-horizon dynamics.layers=2 imagination.horizon=2",
        SMALL_GPU_GB,
    ),
    suite(
        "encoder-times", "the encoder in each backend", "encoder", (*TRAINS, "diffusers"), 150,
        "--batches 4 --precisions fp16,bf16", "--config debug --batches 1 --precisions fp32 --backends channels_last",
        SMALL_GPU_GB,
    ),
    tests(
        "engines", "engines built, compared, run on any stream", "tests/tokenizer/test_engines_on_gpu.py",
        (*TRAINS[2:], "diffusers"), 180, "tests/tokenizer",
    ),
    tests(
        "dali", "DALI's resampling, NVDEC's frames, their memory", "tests/tokenizer/test_dali_on_gpu.py",
        (*TRAINS[2:4], DALI, "av"), 90, "tests/tokenizer",
    ),
    tests(
        "alignment", "frames against actions through NVDEC", "tests/recordings/test_alignment.py",
        (*TRAINS[2:], DALI, "av", "diffusers"), 60, "tests/recordings",
    ),
    suite(
        "data-path", "frames a second to the encoder's input", "data_path", (*TRAINS[:4], "av"), 60,
        tiny="--frames 66 --pairs 2 --image-size 32",
    ),
    Part(
        "gate", "counts and times of every row", "gate", "bench.gate", ("--full", "--device", "{device}"),
        TRAINS, 200, real=("--out", "{out}"), tiny=("--measure", "{out}", "--counts-only", "--only", "sampling step"),
    ),
    Part(
        "naive", "times as fast as plain PyTorch", "lines", "bench.suites", ("naive", "--device", "{device}"),
        TRAINS, 150, real=("--config", "minerl_cosmos", "--compile", "precision=bf16"),
        tiny=("--config", "debug", "--pairs", "2", "--rounds", "2", "--horizons", "2,3",
              "imagination.horizon=3", "phase3.batch_size=2", "dynamics.layers=2"),
    ),
    Part(
        "two-gpus", "two GPUs against one: whole on each, and sharded", "lines", "bench.gpu.two_ranks",
        ("--device", "{device}"), TRAINS, 240, real=("--config", "minerl_cosmos", "--steps", "10"),
        tiny=("--config", "debug", "--steps", "2", "dynamics.layers=2"), gpus=2,
    ),
)  # fmt: skip
"""The first of each pair that a failure explains comes before what it explains."""

SMALL = {"numpy": "numpy", "yaml": "pyyaml", "safetensors": "safetensors", "jaxtyping": "jaxtyping"}


def install_line(library: str) -> str:
    """What brings a library."""
    if library in ("triton", DALI):
        return advice.extra("cuda")
    return advice.pip(SMALL.get(library, library))


def without(parts: Sequence[Part], missing: Sequence[str], is_dry: bool) -> dict[str, list[str]]:
    """The parts that each missing library keeps from running, by name."""
    return {library: [part.name for part in parts if library in part.wants(is_dry)] for library in missing}

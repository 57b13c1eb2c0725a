"""The frozen tokenizer's encoder in every backend that is there: the report that a GPU's owner sends.

    PYTHONPATH=.:kernels:engines python -m bench.suites encoder [--memory-gb 12] [--out FILE] [dotted overrides]

The full Cosmos CV8x8x8 with random weights, 33 frames of 256 x 256; on a GPU batches 1, 4, 16 in fp32, bf16, fp16 to
bench/results/<GPU>-encoder.json, on a CPU 1, 4 in fp32 to --out. Compilers take minutes a row. Small: --config debug.
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from importlib import metadata, util
from pathlib import Path

import torch
from fastdreamer_engines import BACKENDS, LIMITS, Engine, EngineError, EngineSpec, Exports, eager_engine, local_target
from fastdreamer_engines.spec import DTYPES, count_work

from bench.suites.command import ALL, Report, cap_memory, numbers, options, out_file, reason_of, words
from bench.suites.results import Measured, table
from bench.timing import Arm, copy_bandwidth, machine, matrix_rate, paired
from fastdreamer.config import TokenizerConfig, load_config
from fastdreamer.errors import UserError
from fastdreamer.tokenizer.engines.installed import gate_for
from fastdreamer.tokenizer.frozen import FrozenTokenizer, eager_spec

ARMS = ("eager", "channels_last", *BACKENDS)


@dataclass(frozen=True)
class EncoderRow(Measured):
    """One backend at one precision and batch; `speedup` is over eager of that precision, timed in turns with it.

    Attributes:
        batch: clips a call; `ms_per_clip`: median.
        peak_share: FLOP/s over those of a big square matmul of that precision, measured in the same process.
        peak_bytes: most that torch reserved in a call, with the fp32 reference and the comparison (0.5 GB); 0 on a CPU.
        outside_bytes: what the GPU lost besides: TensorRT's and AOTInductor's own memory, loaded code.
        relative_error: the gate's worst, against eager fp32 with TF32 off, norm over norm; 1e9 for what is not finite.
    """

    batch: int = 0
    precision: str = ""
    ms_per_clip: float = 0.0
    peak_share: float = 0.0
    peak_bytes: int = 0
    outside_bytes: int = 0
    relative_error: float = 0.0


COLUMNS: dict[str, Callable[[EncoderRow], str]] = {
    "ms/clip": lambda r: f"{r.ms_per_clip:.3f}", "x eager": lambda r: f"{r.speedup:.2f}",
    "% peak": lambda r: f"{100 * r.peak_share:.1f}", "GB": lambda r: f"{r.peak_bytes / 1e9:.2f}",
    "+GB": lambda r: f"{r.outside_bytes / 1e9:.2f}", "error": lambda r: f"{r.relative_error:.1e}",
}  # fmt: skip


class Bench:
    """One tokenizer's encoder on one device; `probes` are the machine's rates."""

    def __init__(self, config: TokenizerConfig, device: torch.device, probes: dict[str, float]) -> None:
        tokenizer = FrozenTokenizer.from_config(config, device)
        tokenizer.graphs["decoder"].cpu()  # no part of the encoder's memory
        self.graph, self.spec, self.window = tokenizer.graphs["encoder"], eager_spec(config, "encoder"), config.window
        self.device, self.probes, self.gate = device, probes, gate_for(tokenizer, self.spec)
        self.parameters, self.gflop = count_work(deepcopy(self.graph).cpu(), self.spec, (1, self.window))

    def row(self, name: str, precision: str, batch: int) -> EncoderRow:
        """Builds, compares and times; what fails says why in the row."""
        print(f"measuring {name} {precision} {batch}x{self.window}", flush=True)
        spec = replace(self.spec, precision=precision, shapes=((batch, self.window),))  # type: ignore[arg-type]
        moved = math.prod(spec.inputs(spec.shapes[0])) + math.prod(spec.outputs(spec.shapes[0]))
        floor, flops = 4 * moved + DTYPES[precision].itemsize * self.parameters, int(1e9 * self.gflop * batch)
        title, cache = f"encoder {precision} {batch}x{self.window}", "warm" if self.device.type == "cuda" else "host"
        row = EncoderRow(title, name, cache, floor_bytes=floor, flops=flops, batch=batch, precision=precision)
        try:
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                return self._measured(row, spec, Path(folder))
        except Exception as error:  # compilers raise anything, and the other rows are worth having
            return replace(row, reason=reason_of(error))

    def _measured(self, row: EncoderRow, spec: EngineSpec, folder: Path) -> EncoderRow:
        before, pairs = self._others(), 20 if self.device.type == "cuda" else 4
        eager, engine = eager_engine(self.graph, spec), self._engine(row.arm, spec, folder)
        inputs = torch.rand(spec.inputs(spec.shapes[0]), device=self.device) * 2 - 1  # zeros would run cooler
        with torch.inference_mode():
            check = self.gate.check(engine.run, spec.shapes[0], row.arm, LIMITS[spec.precision])
            self._others(), engine.run(inputs)
            peak, run = torch.cuda.max_memory_reserved(), Arm(lambda _: engine.run(inputs))
            outside = max(0, self._others() - before)
            pair = None
            with suppress(torch.OutOfMemoryError):
                pair = paired(Arm(lambda _: eager.run(inputs)), run, pairs)
            pair = pair or replace(paired(run, run, pairs), ratio=math.inf)  # eager does not fit: 0 times as fast
        seconds, rate = pair.seconds_b, self.probes[f"matmul_{row.precision}_flop_per_s"]
        return replace(
            row, median_us=1e6 * seconds, ms_per_clip=1e3 * seconds / row.batch, speedup=1 / pair.ratio,
            copy_share=row.floor_bytes / seconds / self.probes["copy_bytes_per_s"], noise=pair.error, peak_bytes=peak,
            peak_share=row.flops / seconds / rate, outside_bytes=outside, relative_error=min(check.worst, 1e9),
            reason="" if check.is_within else f"off by {check.worst:.2g}, the limit is {check.limit:g}",
        )  # fmt: skip

    def _engine(self, name: str, spec: EngineSpec, folder: Path) -> Engine:
        if name not in BACKENDS:
            layout = torch.channels_last_3d if name == "channels_last" else torch.preserve_format
            return eager_engine(deepcopy(self.graph).to(memory_format=layout), spec)  # type: ignore[call-overload]
        torch._dynamo.reset()  # or many rows of one function reach its limit of compiles
        (work := folder / "engine").mkdir()
        BACKENDS[name].build(Exports(self.graph, spec, folder), local_target(self.device), work, self.device)
        return Engine(name, spec, BACKENDS[name].load(work, self.graph, spec, self.device))

    def _others(self) -> int:
        """Bytes of the GPU that are taken but not by torch's allocator; starts a new peak of torch's."""
        gc.collect()
        if self.device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()


def fastest(rows: Sequence[EncoderRow]) -> str:
    """The best usable row of every batch in one line."""
    best = {r.batch: r for r in sorted(rows, key=lambda r: -r.ms_per_clip) if not r.reason}
    parts = [f"batch {b} {r.arm} {r.precision} {r.ms_per_clip:.3g} ms a clip" for b, r in sorted(best.items())]
    return "fastest: " + ("; ".join(parts) or "none, every row failed")


OPTIONS = options(
    *ALL,
    batches={"type": numbers, "help": "clips a call: 1,4,16"},
    precisions={"type": words, "help": ",".join(DTYPES)},
    backends={"type": words, "help": f"{','.join(ARMS)}; default: all that import"},
    size={"type": int, "choices": (32, 64, 128, 256), "help": "pixels a side; the configuration's"},
)


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    if util.find_spec("diffusers") is None:
        raise UserError("diffusers builds the encoder and is not installed: pip install diffusers")
    is_gpu, libraries = chosen.device == "cuda", {"diffusers": metadata.version("diffusers")}
    for name, maker in BACKENDS.items():
        with suppress(EngineError):  # not installed
            libraries[name] = maker.library()
    precisions = chosen.precisions or (list(DTYPES) if is_gpu else ["fp32"])
    backends = chosen.backends or [name for name in ARMS if name in libraries or name not in BACKENDS]
    if unknown := ({*precisions} - {*DTYPES}) | ({*backends} - {*ARMS}):
        raise UserError(f"{', '.join(sorted(unknown))}: known are {', '.join((*DTYPES, *ARMS))}")
    cap_memory(chosen)
    size = [f"tokenizer.image_size={chosen.size}", f"tokenizer.pool={chosen.size // 32}"] if chosen.size else []
    changes = ["tokenizer.weights=random", *size, *chosen.overrides]
    config = load_config(chosen.config or "minerl_cosmos", changes).tokenizer
    probes = {"copy_bytes_per_s": copy_bandwidth(1 << (28 if is_gpu else 24), chosen.device)}
    for name in precisions:
        probes[f"matmul_{name}_flop_per_s"] = matrix_rate(8192 if is_gpu else 512, DTYPES[name], chosen.device)
    bench = Bench(config, torch.device(chosen.device), probes)
    about = machine() | {"libraries": libraries, "memory_gb": chosen.memory_gb, "tokenizer": asdict(config)}
    report = Report(about, probes, out_file(chosen, about))
    batches = chosen.batches or ((1, 4, 16) if is_gpu else (1, 4))
    rows = report.saved(bench.row(name, p, batch) for batch in batches for p in precisions for name in backends)
    print(*report.lines(), table(rows, COLUMNS), fastest(rows), sep="\n")

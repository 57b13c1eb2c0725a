"""Starts a part: how much of the GPU it may take, then its module.

python -m bench.gpu.start MEMORY_GB MODULE [words ...]
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """Never touches the driver where no memory is given."""
    memory, module, *words = sys.argv[1:]
    if float(memory):
        import torch

        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, float(memory) / total))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

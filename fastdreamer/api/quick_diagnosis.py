"""The quick checks of a phase, for a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastdreamer.health.checks import Check, check
from fastdreamer.shapes import LatentClock
from fastdreamer.tools.diagnosis.inputs import output


def diagnose_phase(
    phase: int, model_dict: Mapping[str, nn.Module], sample_batch: Mapping[str, Tensor], device: torch.device
) -> list[Check]:
    """A quick look at a phase: where models are, what the tokenizer gives for `sample_batch["frames"]`, memory.

    Prints a line a check and returns them; what fails is a red check, never an exception.
    """
    from fastdreamer.tools.diagnosis.model_checks import devices

    print(f"=== Phase {phase} Diagnostics ===")
    checks = list(devices(model_dict, device))
    try:
        tokenizer: Any = model_dict["tokenizer"]
        frames = sample_batch["frames"].to(device)
        count = frames.shape[2] if frames.shape[1] == 3 else frames.shape[1]
        clock = getattr(tokenizer, "clock", LatentClock(8, 33))
        with torch.no_grad():
            checks += output(tokenizer.encode(frames)["latents"], count, clock)
    except Exception as error:  # a diagnosis outlives what it diagnoses
        checks.append(
            check("latents", "forward pass", f"{type(error).__name__}: {error}", "latents",
                  "the tokenizer refuses these frames: give (b,3,t,h,w) or (b,t,3,h,w)", red=True)
        )  # fmt: skip
    if device.type == "cuda":
        used, total = torch.cuda.memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        full = used > total * 11 / 12
        checks.append(
            check("memory", "memory", f"{used / 2**30:.2f} of {total / 2**30:.1f} GiB", "at most 92%",
                  "lower the batch size, or accumulate", red=full)
        )  # fmt: skip
    for found in checks:
        print(f"{found.verdict:<9} {found.name}: {found.value} (expected {found.expected})")
    return checks

"""Watches copies between devices."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Copies(TorchFunctionMode):
    """Keeps whether each `Tensor.to` returns before the copy has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead: list[bool] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.to:
            self.ahead.append((kwargs or {}).get("non_blocking", False))
        return function(*args, **(kwargs or {}))

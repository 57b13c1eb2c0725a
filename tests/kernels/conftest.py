"""Where the kernels run in these tests: on a GPU with `-m gpu`, else through Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastdreamer_kernels.launch import IS_INTERPRETED


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated and never written is NaN."""

    def poison(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> torch.Tensor:
            out: torch.Tensor = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return made

    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty", poison(torch.empty))


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """A device on which the kernels run."""
    if request.param == "cuda":
        if not torch.cuda.is_available() or IS_INTERPRETED:
            pytest.skip("needs a CUDA GPU, and TRITON_INTERPRET unset")
        return "cuda"
    if not IS_INTERPRETED:
        pytest.skip("runs with TRITON_INTERPRET=1, as make test does")
    return "cpu"

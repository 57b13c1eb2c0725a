"""Several ranks: they agree over gloo on the host, and add gradients up over NCCL on GPUs or gloo on a CPU."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from fastdreamer.errors import Ended, RanksDiffer, UserError
from fastdreamer.ranks.fingerprint import fingerprint
from fastdreamer.ranks.heartbeats import Gone, Heartbeats
from fastdreamer.ranks.membership import Figures, Groups, Ranks
from fastdreamer.ranks.sharding import Shards, gather_parts, shard
from fastdreamer.ranks.sums import Sums

PATIENCE = 10
"""Waits that are no step of training (a checkpoint is written, a loss is looked at) may take so many time limits."""
LEAST_PATIENCE_S = 600.0
T = TypeVar("T")


class Group(Ranks):
    """The ranks of one launch of torchrun.

    Attributes:
        sums: adds up, and counts calls and bytes.
        agreements: how often the ranks have agreed.
    """

    def __init__(
        self, rank: int, world: int, others: Heartbeats, connect: Callable[[], Any], refuse: Callable[[], None]
    ) -> None:
        self.rank, self.world, self.others = rank, world, others
        self.sums: Sums | None = None
        self.agreements = 0
        self._connect, self._refuse = connect, refuse
        self._timeout_s = 0.0
        self._requests: Sequence[int] = ()
        self._stopped_by = 0
        self._used: list[bool] = []
        self._named: Counter[str] = Counter()

    def stopped_by(self, requests: Sequence[int]) -> int:
        """The signal on which all have agreed."""
        return self._stopped_by

    def listen(self, requests: Sequence[int]) -> None:
        """Tells the others of these, and of a launcher that is gone."""
        self._requests, self._stopped_by = requests, 0

    def at(self, doing: str) -> None:
        """Shows in the others' line about this rank."""
        self.others.doing = doing

    @contextmanager
    def together(self, parameters: Sequence[nn.Parameter] = ()) -> Iterator[None]:
        """One agreement: who ran out of memory, which signals came, which parameters have a gradient anywhere.

        Raises:
            torch.OutOfMemoryError: on all ranks, if memory ran out on one.
        """
        reason = ""
        try:
            yield
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0] or "no reason given"
        out = self._agree(bool(reason), parameters)
        if out is not None:
            raise torch.OutOfMemoryError(f"on rank {out}" + (f": {reason}" if reason else ""))

    def _agree(self, is_out: bool, parameters: Sequence[nn.Parameter]) -> int | None:
        """The rank that ran out of memory, if one did."""
        signals = [*self._requests, *self.others.requests]
        words = [self.world - self.rank if is_out else 0, signals[0] if signals else 0]
        votes = torch.tensor(words + [int(p.grad is not None) for p in parameters], dtype=torch.int32)
        with self.waiting():
            dist.all_reduce(votes, dist.ReduceOp.MAX)
        self.agreements += 1
        (out, self._stopped_by), self._used = votes[:2].tolist(), votes[2:].bool().tolist()
        return self.world - out if out else None

    def add_up(self, parameters: Sequence[nn.Parameter], batches: Figures) -> Figures:
        """Adds up in flat buckets; a gradient that another rank has and this one lacks is zero."""
        assert self.sums is not None
        gradients = []
        for parameter, is_used in zip(parameters, self._used, strict=True):
            if is_used and (parameter.grad is None or not parameter.grad.is_contiguous()):
                own = parameter.grad
                parameter.grad = torch.zeros_like(parameter) if own is None else own.contiguous()
            if is_used:
                assert parameter.grad is not None
                gradients.append(parameter.grad)
        with self.waiting():
            return self.sums.add_up(gradients, batches)

    def gather(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """All of them in one call."""
        assert self.sums is not None
        with self.waiting():
            return self.sums.gather(*tensors)

    def gather_into(self, out: Tensor, part: Tensor) -> None:
        """Fills `out` with the parts of all ranks, in order; all are of one shape."""
        with self.waiting(part):
            gather_parts(out, part)

    def shard(self, model: nn.Module, transformer: nn.Module, is_bf16: bool) -> Shards:
        """Shards over all ranks; `begin` comes before."""
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.world,))
        return shard(model, transformer, self, mesh, is_bf16)

    def empty(self, size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer for weights that are gathered, or gradients that are added up."""
        return torch.empty(*size, dtype=dtype, device=device)

    def total(self, parts: Tensor) -> Tensor:
        """The sum over the ranks of a number that each has a part of."""
        with self.waiting(parts):
            dist.all_reduce(parts)
        return parts

    def from_main(self, name: str, value: T) -> T:
        """Carries it by the store."""
        key = self._fresh(f"main/{name}")
        self.others.count += 1
        if self.is_main:
            self.others.store.set(key, json.dumps(value))
            return value
        self.others.wait(key, self._patience_s)
        found: T = json.loads(self.others.store.get(key))
        return found

    def collect(self, name: str, value: T) -> list[T]:
        """Carries them by the store."""
        key = self._fresh(f"all/{name}")
        self.others.count += 1
        if not self.is_main:
            self.others.store.set(f"{key}/{self.rank}", json.dumps(value))
            return []
        found = [value]
        for rank in range(1, self.world):
            self.others.wait(f"{key}/{rank}", self._patience_s)
            found.append(json.loads(self.others.store.get(f"{key}/{rank}")))
        return found

    def meet(self, name: str) -> None:
        """Waits by the store, so that what takes long on one rank is no silence in a collective."""
        self.others.count += 1
        key = self._fresh(f"here/{name}")
        try:
            self.say(f"{key}/{self.rank}")
            for rank in range(self.world):
                self.others.wait(f"{key}/{rank}", self._patience_s)
        except Gone:  # all are stopping
            pass

    def compare(self, groups: Groups, when: str) -> None:
        """Compares fingerprints; the bits themselves stay where they are.

        Raises:
            RanksDiffer: on all ranks, naming the first difference.
        """
        named = {f"{group} {name}": x for group, tensors in groups.items() for name, x in tensors.items()}
        marks = torch.stack([fingerprint(x).cpu() for x in named.values()])
        whole = torch.stack([torch.tensor(len(marks)), fingerprint(marks)])
        all_whole = [torch.empty_like(whole) for _ in range(self.world)]
        with self.waiting():
            dist.all_gather(all_whole, whole)
        others = [rank for rank in range(self.world) if not torch.equal(all_whole[rank], all_whole[0])]
        if not others:
            return
        own = dict(zip(named, marks.tolist(), strict=True))
        marks_of = self._fresh(f"marks/{when}")
        self.others.store.set(f"{marks_of}/{self.rank}", json.dumps(own))
        line = ""
        if self.is_main:
            self.others.wait(f"{marks_of}/{others[0]}", self._patience_s)
            theirs = json.loads(self.others.store.get(f"{marks_of}/{others[0]}"))
            first = next(name for name in [*own, *theirs] if own.get(name) != theirs.get(name))
            line = f"{when}: {first} of {self.others.name(others[0])} is not rank 0's, so nothing more was saved"
        raise RanksDiffer(self.from_main(f"differ/{when}", line))

    def not_finite(self) -> list[int]:
        """Reads what rode with the sums of the newest step."""
        return self.sums.not_finite() if self.sums is not None else []

    def begin(self, about: Mapping[str, str], timeout_s: float, check_every: int, device: torch.device) -> None:
        """Opens gloo on the host and, for a GPU's tensors, NCCL.

        Raises:
            UserError: on all ranks, if one read something else than the main rank.
        """
        store = self.others.store
        self.check_every = check_every
        store.set(f"about/{self.rank}", json.dumps(dict(about)))
        self.say("checked")
        self._timeout_s = timeout_s
        self.meet("begin")
        wrong = ""
        for rank in range(1, self.world) if self.is_main else ():
            theirs = json.loads(store.get(f"about/{rank}"))
            named = f"of {self.others.name(rank)}"
            wrong = wrong or next((f"{name} {named}" for name in about if theirs.get(name) != about[name]), "")
        if wrong := self.from_main("about", wrong):
            raise UserError(f"the {wrong} is not that of rank 0: give every rank the same files and version")
        if self.sums is not None:
            return
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout_s)
        with self.waiting():
            dist.init_process_group(
                backend, store=self._connect(), rank=self.rank, world_size=self.world, timeout=limit,
                device_id=device if device.type == "cuda" else None,
            )  # fmt: skip
            self.sums = Sums(self.rank, self.world, device)

    def wait(self, name: str) -> None:
        """Waits without a limit, as long as the main rank lives."""
        self.others.wait(name)

    def say(self, name: str) -> None:
        """Leaves the word in the store."""
        self.others.store.set(name, "1")

    def end(self, line: str, status: int, is_final: bool = False, is_of_all: bool = False) -> bool:
        """Names this rank in the line, but for the main one before training begins."""
        try:
            if is_final:
                self._refuse()
            is_plain = is_of_all or not line or (self.is_main and self.sums is None)
            self.others.post(line if is_plain else f"{self.others.name(self.rank)}: {line}", status)
        except Gone:
            return False
        return True

    def leave(self) -> None:
        """Waits for the main rank's last word, so that nobody who is waited for is missed."""
        try:
            if not self.others.ended():
                if self.is_main:
                    self.say("done")
                else:
                    self.others.wait("done")
        except Ended:
            pass
        self.others.is_done = True
        self.others.stop()

    def _fresh(self, name: str) -> str:
        """A key of the store that was not used before; all ranks use a name equally often."""
        self._named[name] += 1
        return f"{name}/{self._named[name]}"

    @property
    def _patience_s(self) -> float | None:
        """The limit of a wait that is no step of training; none before the settings are known."""
        return max(PATIENCE * self._timeout_s, LEAST_PATIENCE_S) if self._timeout_s else None

    @contextmanager
    def waiting(self, sent: Tensor | None = None) -> Iterator[None]:
        """Explains what breaks while others are waited for, and counts what is `sent` to them.

        Raises:
            Ended: in its place.
        """
        self.others.count += 1
        if sent is not None and self.sums is not None:
            self.sums.count(sent)
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            is_late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
            raise (self.others.late(self._timeout_s) if is_late else self.others.broken(error)) from None

"""Joins the processes that torchrun started beside this one."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from fastdreamer.errors import Ended, UserError
from fastdreamer.ranks.group import Group
from fastdreamer.ranks.heartbeats import Heartbeats, LaunchersStore
from fastdreamer.ranks.torchrun import AGENT_STORE, place, restarts

CONNECTS_S = 300.0
STATUS_REFUSED = 2


def joined() -> Group:
    """The group of this launch: its store, and the thread that watches it. All but the main rank fall silent.

    Raises:
        UserError: if the launcher's store cannot be reached.
        Ended: if an earlier start of this launch was refused, for this one would be too.
    """
    rank, world = place()
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        has_agent = os.environ.get(AGENT_STORE) == "True"  # else the main rank holds the store
        base = TCPStore(
            host, port, world, rank == 0 and not has_agent, timedelta(seconds=CONNECTS_S), wait_for_workers=False
        )
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"rank {rank} of {world} cannot reach torchrun's store ({reason})") from None
    launch = PrefixStore("fastdreamer", base)
    if launch.check(["refused"]):
        raise Ended(STATUS_REFUSED)
    attempt = f"{restarts()}"

    def connect() -> Store:
        client = TCPStore(host, port, world, False, timedelta(seconds=CONNECTS_S), wait_for_workers=False)
        return PrefixStore(f"fastdreamer/{attempt}/group", client)

    others = Heartbeats(LaunchersStore(PrefixStore(attempt, launch)), rank, world)
    if rank:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    return Group(rank, world, others, connect, lambda: launch.set("refused", "1"))

"""What a supervisor leaves to the program that it becomes: descriptors, and what they are.

`execve` keeps the process, its children and every descriptor that is not closed on exec. The
document goes through memory (memfd_create(2)) whose descriptor is named in the environment. A
newer program reads it: so it may only be added to, or `HANDOVER_VERSION` has to rise.
"""

import json
import os
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from turnout.proxy.upgrading import HANDOVER_VERSION

VARIABLE: Final = "TURNOUT_HANDOVER"
NONE: Final = -1
"""Instead of a descriptor that there is not."""


@dataclass(frozen=True, slots=True)
class HandedWorker:
    number: int
    region: int
    pid: int
    pidfd: int
    started_s: float
    """Monotonic."""
    link: int
    """Our end of its line, or NONE."""
    removed: bool
    """It has been told to leave."""


@dataclass(frozen=True, slots=True)
class HandedSocket:
    bind: str
    owner: int
    descriptor: int
    inode: int


@dataclass(frozen=True, slots=True)
class HandedControl:
    pid: int
    pidfd: int
    started_s: float


@dataclass(frozen=True, slots=True)
class Handover:
    lock: int
    """Of the runtime directory, held."""
    runtime_dir: str
    sockets: list[HandedSocket]
    unused: list[int]
    """Listening sockets of systemd's that no bind asks for."""
    workers: list[HandedWorker]
    control: HandedControl | None
    upgrade: dict[str, Any]
    """The `UpgradeState`."""
    proof: dict[str, Any] = field(default_factory=dict)
    """The `Proof`, as the new program printed it."""

    def descriptors(self) -> Iterator[int]:
        """All that have to outlive execve."""
        yield self.lock
        yield from (entry.descriptor for entry in self.sockets)
        yield from self.unused
        for worker in self.workers:
            yield from (one for one in (worker.pidfd, worker.link) if one != NONE)
        if self.control is not None:
            yield self.control.pidfd


@contextmanager
def handing_over(value: Handover, environment: MutableMapping[str, str]) -> Iterator[None]:
    """Everything is ready for execve within; when that fails all is as before.

    Raises OSError when there is no room for the document.
    """
    memory = os.memfd_create("turnout-handover", 0)
    descriptors = list(value.descriptors())
    try:
        os.write(memory, json.dumps({"v": HANDOVER_VERSION, **asdict(value)}).encode())
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        environment[VARIABLE] = str(memory)
        yield
    finally:
        environment.pop(VARIABLE, None)
        os.close(memory)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def handed_over(environment: MutableMapping[str, str]) -> Handover | None:
    """What the program before has left, taken out of the environment; None at a usual start.

    Raises ValueError when it cannot be understood: the proof was to find that out.
    """
    named = environment.pop(VARIABLE, "")
    if not named:
        return None
    memory = int(named)
    try:
        document: dict[str, Any] = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
        if document.pop("v") != HANDOVER_VERSION:
            raise ValueError("of another version")
        value = Handover(
            lock=document["lock"],
            runtime_dir=document["runtime_dir"],
            sockets=[HandedSocket(**entry) for entry in document["sockets"]],
            unused=document["unused"],
            workers=[HandedWorker(**entry) for entry in document["workers"]],
            control=HandedControl(**document["control"]) if document["control"] else None,
            upgrade=document["upgrade"],
            proof=document["proof"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what the program before has left is not whole: {error!r}") from error
    finally:
        os.close(memory)
    close_on_exec(list(value.descriptors()))
    return value


def close_on_exec(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)

"""CONTRACT with control and supervisor: the messages between processes, and the plan.

Messages are rare (a table to load, a cut at a deadline, a batch of log lines): what a request
needs is in shared memory. A frame is a length, a kind and a payload; a JSON payload carries
the message's name and its fields, so that an older or newer program can say what it does not
know instead of misreading it.

- workers connect to `workers.sock`, which control listens on (and come back after its death);
- control connects to `supervisor.sock`, which the supervisor listens on;
- the supervisor hands each worker its listening sockets over a socket pair (`Sockets`);
- a supervisor whose predecessor was killed connects to `worker-N.sock` of each worker, which
  says who it is (`Hello`) and hands the listening sockets back; from then on this connection is
  what the socket pair was.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1
WORKERS_SOCKET: Final = "workers.sock"
SUPERVISOR_SOCKET: Final = "supervisor.sock"
LOCK_FILE: Final = "lock"
CONTROL_LOCK_FILE: Final = "control.lock"
"""Held by control for its life, with its process id in it: there is never a second one."""
PLAN_FILE: Final = "plan.json"
LISTENING_FILE: Final = "listening.json"
"""`{"listeners": {bind: address}, "pid": supervisor}`: where is listened when a port was 0."""
WORKER_PREFIX: Final = "worker-"
"""Sockets on which a worker hands back what it listens on: `worker-<region>.sock`."""
DIED_PREFIX: Final = "died-"
"""Files that name what a dead worker had in flight: `died-<time_ns>-<worker>.json`, a `Died`."""

EXIT_OTHER_GENERATION: Final = 78
"""A child found another program on disk than the supervisor's; see `turnout upgrade`."""
EXIT_WRONG_CONFIGURATION: Final = 2

FRAME: Final = struct.Struct("!IB")
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024


class Kind:
    """What a frame's payload is."""

    MESSAGE: Final = 1
    ACCESS_LOG: Final = 2
    """Whole lines, as they are to be written."""


class ProtocolError(ValueError):
    """A frame or message that this program does not understand."""


def worker_socket(region: int) -> str:
    """Name of the socket in the runtime directory on which a new supervisor asks a worker."""
    return f"{WORKER_PREFIX}{region}.sock"


def table_file(number: int) -> str:
    """Name of a table's file in the runtime directory."""
    return f"table-{number}.json"


def program_generation() -> str:
    """Identify what must be the same in processes that share memory and messages.

    It is a digest of the modules that are the contract, so a repaired worker may replace an
    older one, while a changed layout may not.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("scoreboard.py", "commands.py", "../config/table.py"):
        digest.update((here / name).read_bytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker to control, first: who speaks."""

    worker: int
    region: int
    pid: int
    generation: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Control to worker: load this table and answer `Prepared`."""

    number: int


@dataclass(frozen=True, slots=True)
class Prepared:
    number: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Poke:
    """Control to worker: look at the routing words now (held requests choose again)."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Control to worker: end what a service's upstream has in flight, of these classes.

    Only exchanges picked before `epoch` are cut; answered by `Done` with their names.
    """

    request: int
    slot: int
    upstream: int
    classes: list[int]
    reason: str
    epoch: int


@dataclass(frozen=True, slots=True)
class CloseIdle:
    """Control to worker: close the idle connections to an upstream's servers; then `Done`."""

    request: int
    slot: int
    upstream: int


@dataclass(frozen=True, slots=True)
class RetireServers:
    """Control to worker: `Done` once nothing is in flight to these endpoints of an upstream,
    their idle connections closed; what is left after `deadline_s` seconds is cut."""

    request: int
    slot: int
    upstream: int
    endpoints: list[str]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """Worker to control: request number `request` is carried out; `cut` are receipt entries."""

    request: int
    cut: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Passive:
    """Worker to control: what real traffic showed of a server since the last such message."""

    health_slot: int
    answered: int
    errors_5xx: int
    """5xx answers in a row at the end of the period (all of them if none was better)."""
    connect_errors: int
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Entered:
    """Worker to control: from which networks requests came in by the listeners of an upstream's
    address, since the last such message. How many there were is in the scoreboard; this is
    sent a second later, and is lost with a worker that dies."""

    slot: int
    upstream: int
    networks: dict[str, int]
    """`192.0.2.0/24`, `2001:db8:1::/48`, `unix`; those beyond a bound are `other`."""
    since: float = 0.0
    """All of them came after this time of the machine's monotonic clock; 0: not known."""


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """Control to supervisor: use this plan's binds and workers from now on."""

    request: int
    plan: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplaceWorker:
    """Control to supervisor: kill the worker of this region and start another."""

    request: int
    region: int
    reason: str


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Control to supervisor: become the program that is installed now. Answered at once; what
    becomes of it is in a file (`upgrading.UpgradeState`), as control is replaced meanwhile."""

    request: int
    who: str = ""
    version: str = ""
    """The program's that control is of."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Supervisor to control: done (no error), or the system's error."""

    request: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Sockets:
    """Supervisor to worker, with the descriptors beside it, in the same order.

    The whole set each time: a worker that has some already closes its spare copies.
    """

    sockets: list[dict[str, Any]]
    """Each `{"bind": "127.0.0.1:8080", "owner": 0, "inode": 0}`; owner -1 is shared by all
    workers, `inode` that of a Unix socket's file that is Turnout's to remove."""
    more: bool = False
    """The set goes on in the next message: a message carries some 200 descriptors at most."""


@dataclass(frozen=True, slots=True)
class Died:
    """What is in a `died-…` file: the exchanges that a killed worker held."""

    worker: int
    region: int
    pid: int
    at_unix: float
    status: str
    cut: list[dict[str, Any]]
    """Receipt entries, each with `slot` and `upstream` (index) added."""


Message = (
    Hello | Prepare | Prepared | Poke | Cut | CloseIdle | RetireServers | Done | Passive
    | Entered | ApplyPlan | ReplaceWorker | Upgrade | Answer | Sockets | Died
)  # fmt: skip
_TYPES: Final[Mapping[str, type[Any]]] = {kind.__name__: kind for kind in Message.__args__}


def encode(message: Message) -> bytes:
    """Return the message's payload, without its frame."""
    document = {"v": VERSION, "is": type(message).__name__, **asdict(message)}
    return json.dumps(document, separators=(",", ":")).encode()


def decode(payload: bytes) -> Message:
    """Return the message. Raises ProtocolError for one that this program does not know."""
    try:
        document: dict[str, Any] = json.loads(payload)
        version, name = document.pop("v"), document.pop("is")
        kind = _TYPES[name]
        known = {entry.name for entry in fields(kind)}
        message: Message = kind(**{key: value for key, value in document.items() if key in known})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"not a message of version {VERSION}: {error!r}") from error
    if version != VERSION:
        raise ProtocolError(f"message {name} of version {version}; this program has {VERSION}")
    return message


def frame(payload: bytes, kind: int = Kind.MESSAGE) -> bytes:
    return FRAME.pack(len(payload), kind) + payload


class FrameReader:
    """Bytes as they come in -> whole frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (kind, payload) of each frame that is whole now.

        Raises ProtocolError for a frame longer than FRAME_BYTES_MAX.
        """
        self._buffer += data
        while len(self._buffer) >= FRAME.size:
            length, kind = FRAME.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}")
            end = FRAME.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[FRAME.size : end])
            del self._buffer[:end]
            yield kind, payload


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the supervisor has to know, as the compiler wrote it.

    `words` are the routing words to begin with, as (slot, packed word); they and the table
    come from the store, so that a start after `kill -9` of everything, or after a reboot,
    serves with the weights that were last decided.
    """

    number: int
    """Rises with each change of what the plan itself says (binds, workers, directory)."""
    workers: int
    binds: list[str]
    runtime_dir: str
    table: dict[str, Any]
    """The first table, as its file's document."""
    words: list[list[int]]
    epoch: int
    health: list[list[int]]
    """Health words to begin with, as (health slot, word)."""
    service_capacity: int
    inflight_slots: int
    shutdown_s: float
    """How long a worker that was told to stop may finish what it has."""
    control_argv: list[str]
    """Arguments of `python -P -m turnout.control.app`."""
    control_bind: str = ""
    """Where the control API will be, for the line that says what is served."""
    configuration: dict[str, Any] = field(default_factory=dict)
    """What control compiled this from: a restarted control goes on with it, whatever has
    become of the file since. The supervisor only keeps it."""
    watchdog_s: float = 10.0
    """A worker that does not turn its loop for so long is replaced; 0: never."""
    degraded: str = ""
    """Why this is the committed plan and not a fresh one; empty when all is well."""


def encode_plan(plan: Plan) -> bytes:
    return json.dumps({"v": VERSION, **asdict(plan)}, separators=(",", ":")).encode()


def decode_plan(data: bytes) -> Plan:
    """Raises ProtocolError when it is not a plan of this program's version."""
    try:
        document: dict[str, Any] = json.loads(data)
        if document.pop("v") != VERSION:
            raise ProtocolError("a plan of another version of the program")
        known = {entry.name for entry in fields(Plan)}
        return Plan(**{name: value for name, value in document.items() if name in known})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"not a plan: {error!r}") from error

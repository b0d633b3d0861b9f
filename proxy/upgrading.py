"""CONTRACT with control and supervisor: what is said of an upgrade.

The supervisor starts the new program's `control.proof`, which prints a `Proof`; then it becomes
that program, and says in a file how far it has come (`UpgradeState`): control, and with it
whoever asked, is replaced meanwhile. Both programs read that file, so what is in it may only
be added to.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

HANDOVER_VERSION: Final = 1
"""Of what a supervisor leaves to the program that it becomes (`turnout.handover`). Raised when
an older program's cannot be read any more: then a restart is needed instead of an upgrade."""
UPGRADE_FILE: Final = "upgrade.json"
PROOF_PREFIX: Final = ".proof-"
"""Of the directories that a proof makes in the runtime directory; one that is killed leaves them."""


class Step:
    """How far an upgrade has come, in this order."""

    PROVING: Final = "proving"
    """The new program looks at everything, as a child. Nothing has changed."""
    STARTING: Final = "starting"
    """The supervisor is the new program; its workers start, and do not accept yet."""
    REPLACING: Final = "replacing"
    """The new workers accept beside the old ones; control is replaced."""
    DONE: Final = "done"
    """The old workers finish what they have, and leave."""
    FAILED: Final = "failed"
    """The old workers serve on."""


ENDED: Final = frozenset((Step.DONE, Step.FAILED))


@dataclass(frozen=True, slots=True)
class UpgradeState:
    """The last upgrade, or the one that is under way. Times are seconds since 1970."""

    id: str
    step: str
    from_version: str
    who: str
    began: float
    to_version: str = ""
    ended: float | None = None
    error: str = ""
    """Why it failed, and what to do."""
    remark: str = ""
    """What is odd about one that is done."""

    @property
    def under_way(self) -> bool:
        return self.step not in ENDED


@dataclass(frozen=True, slots=True)
class Proof:
    """What the new program says of itself, and what it needs of the supervisor, by the
    configuration file and the store as they are now."""

    version: str
    generation: str
    workers: int
    binds: list[str]
    service_capacity: int
    inflight_slots: int


def encode(value: UpgradeState | Proof) -> bytes:
    return json.dumps(asdict(value), separators=(",", ":")).encode()


def decode_state(data: bytes) -> UpgradeState:
    """Raises ValueError."""
    return UpgradeState(**_known(UpgradeState, data))


def decode_proof(data: bytes) -> Proof:
    """Raises ValueError."""
    return Proof(**_known(Proof, data))


def _known(kind: type[Any], data: bytes) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    try:
        document: dict[str, Any] = json.loads(data)
        known = {name: value for name, value in document.items() if name in names}
        kind(**known)  # whole?
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from error
    return known


def read_state(runtime_dir: Path) -> UpgradeState | None:
    """What the file says; None when there was no upgrade since the directory was made."""
    try:
        return decode_state((runtime_dir / UPGRADE_FILE).read_bytes())
    except (OSError, ValueError):
        return None

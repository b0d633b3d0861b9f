"""Ends or disturbs the control process at its n-th durable write, whatever that write is.

A durable write is a COMMIT of the store or the renaming of a file (tables, the committed copy).
`CONTROL` is put into the control process before its own modules (`Product(faults=…)`): it takes
its orders from a file, so that one running product serves for many. Nothing of the product knows
of it, and a write that is added to the product is counted like the others.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

from tests.harness import Product
from tests.upstreams import Upstream

ORDERS_VARIABLE: Final = "TURNOUT_TEST_ORDERS"
CASES: Final = "TURNOUT_FAULTS"
"""Environment variable: `all` runs every case instead of a part of them."""

CONTROL: Final = """
import json, os, signal, sqlite3, threading, time

path = os.environ["TURNOUT_TEST_ORDERS"]
lock = threading.RLock()
known = {"orders": None, "writes": 0}


def orders():
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError):
        found = None
    if (found or {}).get("number") != (known["orders"] or {}).get("number"):
        known["orders"], known["writes"] = found, 0
    return known["orders"]


def die():
    os.unlink(path)  # the next control process has no orders
    os.kill(os.getpid(), signal.SIGKILL)


def write(what, act, fail):
    with lock:
        now = orders()
        if now is None:
            return act()
        known["writes"] += 1
        number = known["writes"]
        at, do = now["at"], now["do"]
        with open(path + ".log", "a") as log:
            log.write(json.dumps([now["number"], number, what]) + "\\n")
        if do == "kill before" and number == at:
            die()
        if do == "fail" and at <= number < at + now["times"]:
            fail()
        done = act()
        if do == "kill after" and number == at:
            die()
        return done


class Connection(sqlite3.Connection):
    said = ""

    def execute(self, statement, *values):
        if statement.startswith("BEGIN"):
            self.said = ""
        elif statement == "COMMIT":
            return write(self.said, lambda: super(Connection, self).execute(statement), full)
        elif not self.said and statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            self.said = " ".join(statement.split()[:4])
        return super().execute(statement, *values)


def full():
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    raise error


def no_room():
    raise OSError(28, "No space left on device")


connect, rename = sqlite3.connect, os.rename
sqlite3.connect = lambda *given, **named: connect(*given, factory=Connection, **named)
os.rename = lambda old, new: write(f"rename {os.path.basename(new)}", lambda: rename(old, new), no_room)
"""

# Control is killed many times in a short time here: it is started again without a pause.
SUPERVISOR: Final = """
from turnout import children
children.Backoff.LONGEST_S = children.Backoff.FIRST_S = 0.01
"""

FAULTS: Final = {"turnout.control.app": CONTROL, "turnout.supervisor": SUPERVISOR}


class Orders:
    """What the control process of a product is to do at its next writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0

    def give(self, do: str, at: int = 0, times: int = 1) -> None:
        """`count`, `kill before`, `kill after` or `fail` (as a full disk does) at the write
        `at`, counted from 1 from now on; `fail` also at the next ones, `times` in all."""
        self._number += 1
        orders = {"number": self._number, "do": do, "at": at, "times": times}
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(json.dumps(orders))
        unfinished.rename(self._path)

    def end(self) -> None:
        self._path.unlink(missing_ok=True)

    @property
    def pending(self) -> bool:
        """Whether nobody has been killed by the last order."""
        return self._path.exists()

    def writes(self) -> list[str]:
        """What was written since the last orders were given, in order."""
        try:
            lines = Path(f"{self._path}.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines]
        return [what for number, _, what in found if number == self._number]


def ordered(directory: Path, configuration: dict[str, Any]) -> tuple[Product, Orders]:
    """A product whose control process takes orders; `directory` is for these alone."""
    path = directory / "orders"
    product = Product(configuration, faults=FAULTS, environment={ORDERS_VARIABLE: str(path)})
    return product, Orders(path)


def every_case() -> bool:
    """Whether all cases are to be run, not a part of them."""
    return os.environ.get(CASES) == "all"


__all__ = ["FAULTS", "Orders", "Upstream", "every_case", "ordered"]

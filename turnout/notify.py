"""What systemd is told, if it wants to know: ready, reloading, stopping, alive.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

LONGEST_S: Final = 3600.0


def notify(*lines: str) -> None:
    """Send one message of these lines, such as `READY=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        if address.startswith("@"):
            address = "\0" + address[1:]
        # One that is full or gone must not stop us.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier, suppress(OSError):
            notifier.setblocking(False)
            notifier.sendto("\n".join(lines).encode(), address)


def ready(status: str) -> None:
    notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")


def reloading(status: str) -> None:
    """What `Type=notify-reload` asks for, too: the time at which it began."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={status}")


def stopping() -> None:
    notify("STOPPING=1", "STATUS=finishing what is under way")


def watchdog_interval_s(environment: Mapping[str, str], pid: int) -> float:
    """How often `WATCHDOG=1` is to be sent: half of what systemd waits for; 0 is never."""
    meant_for = environment.get("WATCHDOG_PID", "")
    wanted = environment.get("WATCHDOG_USEC", "")
    if not wanted.isdigit() or (meant_for and meant_for != str(pid)):
        return 0.0
    return min(int(wanted) / 2e6, LONGEST_S)

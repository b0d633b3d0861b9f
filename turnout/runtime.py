"""The runtime directory: made, locked, and its shared files put in place by the supervisor."""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from turnout.proxy.commands import LOCK_FILE, Plan, table_file
from turnout.proxy.scoreboard import (
    HEALTH_BYTES,
    HEALTH_FILE,
    NEWEST_EPOCH,
    ROUTING_BYTES,
    ROUTING_FILE,
    TABLE_IN_FORCE,
    Geometry,
    SharedMemoryError,
    SharedWords,
    service_word_index,
)

REGIONS_MIN: Final = 8


class RuntimeDirectoryError(Exception):
    """A runtime directory that cannot be used; the text says why and what to do."""


class RuntimeDirectory:
    """The directory, locked for as long as this object lives."""

    __slots__ = ("_lock", "path")

    def __init__(self, path: Path, lock: int | None = None) -> None:
        """Make it and lock it, or go on with the `lock` that the program before had taken.

        Raises RuntimeDirectoryError when that cannot be done.
        """
        self.path = path
        if lock is not None:
            self._lock = lock
            return
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.stat()
        except OSError as error:
            raise RuntimeDirectoryError(
                f"runtime_dir {path} cannot be made: {error.strerror}. Choose another one"
            ) from error
        if found.st_uid != os.geteuid():
            raise RuntimeDirectoryError(
                f"runtime_dir {path} belongs to user {found.st_uid}, who could read and change "
                f"what is in it. Choose another one"
            )
        path.chmod(0o700)
        self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise RuntimeDirectoryError(
                f"runtime_dir {path} is in use by another `turnout run`, process {holder}. "
                f"Stop it, or choose another runtime_dir"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    @property
    def lock(self) -> int:
        """The descriptor that is locked."""
        return self._lock

    @property
    def warning(self) -> str:
        """Why the directory is not a good one, or nothing."""
        kind = _file_system(self.path)
        if kind in ("tmpfs", "ramfs", ""):
            return ""
        return (
            f"runtime_dir {self.path} is on {kind}: shared memory there is written to disk. "
            f"Choose a directory on a tmpfs, such as /run/turnout"
        )

    def write(self, name: str, data: bytes) -> None:
        """Replace a file as a whole: a reader sees the old or the new one."""
        unfinished = self.path / f".{name}.new"
        descriptor = os.open(
            unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        with open(descriptor, "wb") as file:
            file.write(data)
        os.rename(unfinished, self.path / name)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


def remove_directories(path: Path, prefix: str) -> None:
    """Remove what short-lived processes that were killed have left, with the files in it."""
    for directory in path.glob(f"{prefix}*"):
        with suppress(OSError):  # only room is lost
            for file in directory.iterdir():
                file.unlink()
            directory.rmdir()


def _file_system(path: Path) -> str:
    """The kind of file system that `path` is on, or nothing where that cannot be told."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    # proc(5): mount id, parent id, major:minor, …, "-", file system, …
    kinds = [line.split(" - ", 1)[1].split()[0] for line in lines if line.split()[2] == number]
    return kinds[-1] if kinds else ""


class SharedFiles:
    """The words of the runtime directory, mapped. The scoreboard is `proxy.scoreboards`'."""

    __slots__ = ("health", "routing")

    def __init__(self, directory: Path) -> None:
        """Map them, made where they are missing. Raises SharedMemoryError."""
        self.routing = _words(directory / ROUTING_FILE, ROUTING_BYTES)
        self.health = _words(directory / HEALTH_FILE, HEALTH_BYTES)

    def begin(self, directory: RuntimeDirectory, plan: Plan, *, taken_over: bool) -> None:
        """Put the plan's table, words and health in force.

        The order matters to whoever is reading already: the table's file before the word
        that names it, a service's word before the newest epoch.
        """
        number = int(plan.table["number"])
        directory.write(table_file(number), json.dumps(plan.table).encode())
        if not taken_over:
            # The words of a service that is gone must not outlive a reused directory; health
            # that nobody has looked at since is no better than none.
            self.routing.octets[:] = bytes(ROUTING_BYTES)
            self.health.octets[:] = bytes(HEALTH_BYTES)
            for slot, word in plan.health:
                self.health.words[slot] = word
        for slot, word in plan.words:
            self.routing.words[service_word_index(slot)] = word
        self.routing.words[NEWEST_EPOCH] = plan.epoch
        self.routing.words[TABLE_IN_FORCE] = number


def _words(path: Path, size: int) -> SharedWords:
    try:
        return SharedWords(path, size, create=False)
    except FileNotFoundError:
        return SharedWords(path, size, create=True)
    except SharedMemoryError:
        # Cut short by something else than Turnout: nobody can be using it.
        path.unlink()
        return SharedWords(path, size, create=True)


def geometry(workers: int, service_capacity: int, inflight_slots: int) -> Geometry:
    """The scoreboard's sizes for so many workers."""
    # Twice the workers are alive while each is replaced, and some more may be draining.
    return Geometry(
        regions=max(REGIONS_MIN, 3 * workers), services=service_capacity, inflight=inflight_slots
    )

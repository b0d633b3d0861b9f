"""Files of the control API that can be used, but should be another way: tokens, certificates."""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from turnout.config.model import ControlPlane
from turnout.config.tls_files import first_certificate, not_after

EXPIRES_SOON_S: Final = 14 * 86400.0


def warnings(control: ControlPlane, now: float) -> Iterator[str]:
    """What to do, a line each; `now` in seconds since 1970."""
    for token in control.tokens:
        if token.file_problem:
            yield f"the token {token.name} fits nobody until the next reload: {token.file_problem}"
        elif token.file:
            yield from _readable(token.file, f"the token {token.name}")
    if control.tls is None:
        return
    try:
        der = first_certificate(Path(control.tls.cert).read_bytes())
    except OSError as error:
        yield f"control.tls.cert {control.tls.cert} cannot be read: {error.strerror}"
        return
    ends = None if der is None else not_after(der)
    if ends is not None and ends < now + EXPIRES_SOON_S:
        verb = "expired" if ends < now else "expires"
        yield (
            f"control.tls.cert {control.tls.cert} {verb} at "
            f"{datetime.fromtimestamp(ends, UTC):%F %T}Z. Put a new one there, then: turnout reload"
        )
    yield from _readable(control.tls.key, "control.tls.key")


def _readable(path: str, what: str) -> Iterator[str]:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return  # who needs it says so
    if mode & 0o044:
        yield (
            f"{path} ({what}) can be read by others on this machine: its mode is {mode:04o}. "
            f"Write: chmod 0600 {path}"
        )

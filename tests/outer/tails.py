"""Settings of a service whose old side is watched, for tests of what comes in there."""

from collections.abc import Mapping, Sequence
from typing import Any


def outer(listeners: Mapping[str, Sequence[str]], **tail: Any) -> dict[str, Any]:
    """An `outer:` section with these listeners of each upstream's address. Nothing calls its
    system unless there is a switchover."""
    return {
        "kind": "webhook",
        "url": "http://127.0.0.1:9/",
        "tail": {"listeners": {name: list(binds) for name, binds in listeners.items()}, **tail},
    }

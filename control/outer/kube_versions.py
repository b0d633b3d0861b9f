"""Pure: a version of what matters of an object.

Its own `resourceVersion` is another one after each heartbeat of a controller that writes its
status; a switchover must not fail for that.
"""

import hashlib
import json
from typing import Any


def digest(*values: Any) -> str:
    """The same for equal JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]

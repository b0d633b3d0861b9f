"""Where a configuration comes from: a file that is found, or options made into its text.

Apart from `loader`, and of the standard library alone: `turnout run` asks no more before it
becomes the supervisor, and a validator takes longer to import than all of that.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

DEFAULT_FILE: Final = "turnout.yaml"
FILE_VARIABLE: Final = "TURNOUT_CONFIG"
INLINE_SERVICE: Final = "default"
"""The name of the one service of a configuration made from options."""


def find_file(option: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the option's, `$TURNOUT_CONFIG`'s, or `./turnout.yaml` if it exists."""
    named = option or environ.get(FILE_VARIABLE)
    if named:
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None


def inline(
    listen: Sequence[str],
    blue: Sequence[str],
    green: Sequence[str],
    *,
    health_path: str | None = None,
    control: str | None = None,
    state: str | None = None,
    runtime_dir: str | None = None,
    workers: int | None = None,
) -> str:
    """The text of a configuration made from options alone, for `loader.load_text`.

    One service, named `default`, whose upstreams are `blue` and `green`.
    """
    service: dict[str, Any] = {
        "upstreams": {"blue": {"servers": list(blue)}, "green": {"servers": list(green)}}
    }
    if health_path is not None:
        service["health"] = {"path": health_path}
    document: dict[str, Any] = {
        "listeners": [{"bind": bind} for bind in listen],
        "services": {INLINE_SERVICE: service},
    }
    if control is not None:
        document["control"] = {"bind": control}
    if state is not None:
        document["state"] = {"path": state}
    if runtime_dir is not None:
        document["runtime_dir"] = runtime_dir
    if workers is not None:
        document["workers"] = workers
    # JSON is YAML; a `$` typed into an option is no variable of ours.
    return json.dumps(document).replace("${", "$${")

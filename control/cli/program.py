"""`turnout reload`, `upgrade`, `version`: of the program itself."""

import sys
import time
from pathlib import Path

from turnout.control.cli.options import (
    AsJson,
    Config,
    Control,
    NoWait,
    app,
    connect,
)
from turnout.control.client import (
    EXIT_FAILED,
    POLL_S,
    Unreachable,
    fail,
)


@app.command(rich_help_panel="Run")
def reload(as_json: AsJson = False, control: Control = None, config: Config = None) -> None:
    """Read the configuration again; a wrong one changes nothing.

    Example: turnout check && turnout reload
    """
    from turnout.control.cli_output import err, out, print_json

    answer = connect(control, config).call("POST", "/v1/reload")
    if as_json:
        print_json(answer)
        return
    out.print("reloaded")
    for key in answer.get("needs_restart") or ():
        err.print(f"{key} changed and takes effect at the next start.")


@app.command(rich_help_panel="Run")
def upgrade(
    no_wait: NoWait = False, as_json: AsJson = False, control: Control = None, config: Config = None
) -> None:
    """Become the program that is installed now, on the same sockets, without losing a request.

    The new program proves itself first; if that fails, or its workers do, the old ones serve on
    and it is said why (exit 1). What the old workers have under way they finish.

    Example: pip install -U turnout && turnout upgrade
    """
    from turnout.control.cli_output import err, out, print_json, steps_until

    client = connect(control, config)
    try:
        now = client.call("POST", "/v1/upgrade")
    except Unreachable as error:
        # It does not start any more when another program is installed than the one that runs.
        fail(f"{error}\nWithout it: kill -USR2 PID, of `turnout run`.", error.code)
    id, shown = now["id"], 0
    while True:
        for line in () if as_json else steps_until(shown, now["step"]):
            err.print(line)
            shown += 1
        if no_wait or not now["under_way"]:
            break
        time.sleep(POLL_S)
        now = client.patiently("/v1/upgrade", "The upgrade goes on; see: turnout status")
    if as_json:
        print_json(now)
    if now["id"] != id:
        fail("another upgrade was begun meanwhile; see: turnout status", EXIT_FAILED)
    if now["step"] == "failed":
        fail(f"not upgraded: {now['error']}\nThe workers of before serve on.", EXIT_FAILED)
    if not as_json:
        out.print(
            f"upgrade begun from {now['from_version']}"
            if now["under_way"]
            else f"upgraded from {now['from_version']} to {now['to_version']}"
        )
    if now["finishing"] and not as_json:
        err.print(f"{now['finishing']} workers of before finish what they have.")
    if now["remark"]:
        err.print(str(now["remark"]))


@app.command(rich_help_panel="Run")
def version() -> None:
    """Print the version, and whether the data plane is compiled.

    Example: turnout version
    """
    from importlib.metadata import version as installed
    from importlib.util import find_spec

    # By name, as nothing of the data plane is to be loaded here.
    hot = find_spec("turnout.proxy.fast_path")
    compiled = hot is not None and not str(hot.origin).endswith(".py")
    how = "compiled by mypyc" if compiled else "interpreted"
    print(f"turnout {installed('turnout')}, data plane {how} ({Path(sys.executable)})")

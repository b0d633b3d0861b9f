"""`turnout`: the command line. A client of the control API; `run` becomes the supervisor.

Heavy parts are imported inside the commands that need them: a deploy script calls this often.
A file for each sort of command, in the order in which `turnout --help` shows them; `options` has
what they have in common.
"""

import importlib
import os
import sys

import typer

from turnout.control.cli import beanstalk
from turnout.control.cli.options import app as app
from turnout.control.client import EXIT_INTERRUPTED, EXIT_USAGE, CommandError

for _name in ("start", "look", "move", "steer", "program"):  # the order of the help
    importlib.import_module(f"turnout.control.cli.{_name}")
app.add_typer(beanstalk.app, name="beanstalk", rich_help_panel="Prepare a side")


def main() -> None:
    """Run the command line; never returns."""
    try:
        # Without its own ending, the library returns the code of an Exit instead of raising it.
        returned = app(standalone_mode=False)
        code = returned if isinstance(returned, int) else 0
    except CommandError as error:
        print(f"turnout: {error}", file=sys.stderr)
        code = error.code
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if (shown := getattr(error, "show", None)) is None:
            raise
        shown()  # what the command-line library says of wrong use
        code = EXIT_USAGE
    sys.exit(code)

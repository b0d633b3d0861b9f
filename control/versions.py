"""The program's version, as it was installed when this process looked first."""

import importlib.metadata


def version() -> str:
    """Of the installed distribution."""
    try:
        return importlib.metadata.version("turnout")
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"

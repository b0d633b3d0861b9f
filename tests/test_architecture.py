"""Who may import whom. The rules are data; a broken one names the file, the import, the remedy.

Three rooms and a door: `config` is what everyone agrees on, `proxy` moves bytes, `control`
decides and remembers, `turnout` starts them. Each may know only what is listed here, so that
a worker stays small, the supervisor has no reason to crash, and what decides anything can be
tested by value.
"""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("config", "proxy", "control")

# What the processes share: shared memory and messages, never the machinery.
CONTRACT = frozenset(
    f"turnout.proxy.{name}" for name in ("commands", "scoreboard", "scoreboards", "upgrading")
)

# The values of `config` that need the standard library only.
VALUES = frozenset(
    f"turnout.config.{name}" for name in ("address", "weights", "units", "model", "table")
)

# What is decided by value: no clock, socket, loop or randomness of its own. These must be; any
# other file whose docstring says "Pure" is held to it as well.
PURE = frozenset(
    {
        "config/address.py",
        "config/conflicts.py",
        "config/model.py",
        "config/table.py",
        "config/units.py",
        "config/weights.py",
        "proxy/balancer.py",
        "proxy/framing.py",
        "proxy/head.py",
        "proxy/retry.py",
        "proxy/routing.py",
        "control/decider.py",
        "control/events.py",
        "control/evidence.py",
        "control/health.py",
        "control/receipt.py",
        "control/recovery.py",
        "control/rows.py",
        "control/switchover.py",
    }
)
# Other distributions that do nothing by themselves: a parser and a validator. And what makes
# the API's answers, in modules that a pure one takes a value from.
HARMLESS = frozenset({"httptools", "pydantic"})
HARMLESS_BELOW = HARMLESS | {"aiohttp"}
IMPURE = frozenset({"asyncio", "logging", "os", "random", "socket", "sqlite3", "time"})


@dataclass(frozen=True)
class Rule:
    """What the files of one room may import beside the standard library and the room itself."""

    ours: frozenset[str]
    """Modules, or whole packages when they end in a dot."""
    others: frozenset[str]
    """Top-level names of other distributions."""
    remedy: str


RULES = {
    "config": Rule(
        frozenset(),
        frozenset(),
        "config is a leaf: move what needs more to proxy or control",
    ),
    "proxy": Rule(
        VALUES - {"turnout.config.units"},
        frozenset({"uvloop", "httptools"}),
        "a worker knows config's model and table, uvloop and httptools; "
        "let control put the value into the table",
    ),
    "control": Rule(
        frozenset({"turnout.config."}) | CONTRACT,
        frozenset(
            {"aiohttp", "dns", "httpx", "prometheus_client", "pydantic", "rich", "typer", "uvloop"}
        ),
        "of the data plane control knows only scoreboard and commands; "
        "say it in a counter or a message",
    ),
    "turnout": Rule(
        CONTRACT,
        frozenset(),
        "what starts the others knows the standard library and the contract only; "
        "let the compiler write it into the plan",
    ),
}

# Files that may import more than their room, and why.
EXCEPTIONS = {
    # Reading the file takes a validator and a parser; no worker imports these.
    **{
        f"config/{name}.py": frozenset({"pydantic", "pydantic_core", "ruamel"})
        for name in (
            "document", "knobs", "loader", "outer/__init__", "places", "reference", "secret_files",
            "service_settings", "settings", "tls_files",
        )
    },
    # In the thread that makes the first call; an extra, which need not be installed.
    "control/outer/aws.py": frozenset({"boto3", "botocore"}),
    "turnout/__main__.py": frozenset({"turnout.control.entry"}),
}  # fmt: skip

# Modules that must stay as light as their lightest reader.
LIGHT = {
    **{file: VALUES for file in PURE if file.startswith("config/")},
    "proxy/scoreboard.py": CONTRACT,
    "proxy/scoreboards.py": CONTRACT,
    "proxy/commands.py": CONTRACT,
    "proxy/upgrading.py": CONTRACT,
    # What `turnout run` imports before it becomes the supervisor.
    "config/origin.py": frozenset(),
    "control/entry.py": frozenset({"turnout.config.origin", "turnout.control.cli.main"}),
}
LIGHT["config/conflicts.py"] = VALUES | {
    "turnout.config.document", "turnout.config.service_settings", "turnout.config.settings",
}  # fmt: skip

# What a process must not have imported, itself or through another, when it begins its work:
# traffic waits for a start, and a worker's memory is there once for each core.
NEVER_LOADED = {
    "turnout.control.entry": {"typer", "rich", "pydantic", "ruamel", "httpx", "asyncio"},
    "turnout.supervisor": {"asyncio", "pydantic", "ruamel", "sqlite3", "turnout.config"},
    "turnout.control.compiler": {
        "asyncio", "aiohttp", "dns", "httpx", "rich", "typer", "turnout.control.events",
    },
    "turnout.proxy.worker": {
        "aiohttp", "dns", "httpx", "prometheus_client", "pydantic", "rich", "ruamel", "sqlite3",
        "typer", "turnout.config.model", "turnout.config.settings", "turnout.control",
    },
}  # fmt: skip


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts if parts[0] == "turnout" else ("turnout", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_package(name: str, root: Path) -> bool:
    return name == "turnout" or (root / Path(*name.split(".")[1:])).is_dir()


@functools.cache
def imports(path: Path, root: Path) -> tuple[str, ...]:
    """Full names of the modules that a file imports, wherever in it, in whatever spelling."""
    return tuple(_imports(path, root))


def _imports(path: Path, root: Path) -> Iterator[str]:
    package = module_of(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*above, *([node.module] if node.module else [])])
            if name.split(".")[0] == "turnout" and is_package(name, root):
                yield from (f"{name}.{alias.name}" for alias in node.names)
            else:
                yield name


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """Each source file with its room; the door's links into the rooms are not followed."""
    for room in ROOMS:
        yield from ((room, path) for path in sorted((root / room).rglob("*.py")))
    yield from (("turnout", path) for path in sorted((root / "turnout").glob("*.py")))


def broken_rules(root: Path) -> list[str]:
    return [line for room, path in files(root) for line in broken_by(room, path, root)]


def broken_by(room: str, path: Path, root: Path) -> Iterator[str]:
    file = path.relative_to(root).as_posix()
    must_be_pure = is_pure(file, root)
    rule = RULES[room]
    exceptions = EXCEPTIONS.get(file, frozenset())
    for name in imports(path, root):
        top = name.split(".")[0]
        if name in exceptions or top in exceptions:
            continue
        if is_implementation(name, root):
            yield f"{file} imports {name}: an outer layer is loaded by its name in the settings"
        elif top in ROOMS:
            yield f"{file} imports {name}: write turnout.{name}"
        elif top == "turnout":
            if not (of_room(name, room, root) or listed(name, rule.ours)):
                yield f"{file} imports {name}: {rule.remedy}"
            elif file in LIGHT and not listed(name, LIGHT[file]):
                yield f"{file} imports {name}: it must stay light; pass the value as an argument"
            elif must_be_pure and not may_be_known_to_pure(name, root):
                yield f"{file} imports {name}: it is pure and {name} is not; pass what it gives"
        elif must_be_pure and top in IMPURE:
            yield f"{file} imports {name}: it is pure; take the value as an argument"
        elif must_be_pure and top not in sys.stdlib_module_names | HARMLESS:
            yield f"{file} imports {name}: it is pure; take what {name} gives as an argument"
        elif top not in sys.stdlib_module_names and top not in rule.others:
            yield f"{file} imports {name}: {rule.remedy}"


@functools.cache
def is_implementation(name: str, root: Path) -> bool:
    """Whether a module of control/outer carries a kind out, and so is loaded by that kind."""
    if not name.startswith("turnout.control.outer."):
        return False
    path = root / Path(*name.split(".")[1:]).with_suffix(".py")
    if not path.is_file():
        return True
    made = {"make_router", "make_discovery", "make_gate"}
    defined = {
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    }
    return bool(made & defined) and path.name != "loading.py"


def of_room(name: str, room: str, root: Path) -> bool:
    if room != "turnout":
        return name == f"turnout.{room}" or name.startswith(f"turnout.{room}.")
    return name == "turnout" or name.split(".")[1] not in ROOMS


def listed(name: str, allowed: frozenset[str]) -> bool:
    return name in allowed or any(
        name.startswith(entry) for entry in allowed if entry.endswith(".")
    )


def is_pure(file: str, root: Path) -> bool:
    if file in PURE:
        return True
    path = root / file
    text = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else None
    return re.search(r"\bPure[:;.]", text or "") is not None


def may_be_known_to_pure(name: str, root: Path, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a module of ours needs nothing impure, neither itself nor through what it imports."""
    if name in VALUES | CONTRACT or name.startswith("turnout.config.") or name in seen:
        return True
    path = root / Path(*name.split(".")[1:]).with_suffix(".py")
    if not path.is_file():  # nothing to look into: by what it is said to be
        return path.relative_to(root).as_posix() in PURE
    return all(
        may_be_known_to_pure(inner, root, seen | {name})
        if inner.startswith("turnout.")
        else inner.split(".")[0] in (sys.stdlib_module_names - IMPURE) | HARMLESS_BELOW
        for inner in imports(path, root)
    )


def test_imports_follow_the_architecture() -> None:
    assert broken_rules(ROOT) == []


@pytest.mark.parametrize("module", NEVER_LOADED)
def test_a_process_loads_nothing_that_it_does_not_need_to_begin(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert sorted(NEVER_LOADED[module] & set(done.stdout.split())) == []


def test_every_file_that_is_said_to_be_pure_is_there_and_is_looked_at() -> None:
    looked_at = {path.relative_to(ROOT).as_posix() for _, path in files(ROOT)}
    assert sorted(PURE - looked_at) == []


def test_a_file_that_says_it_is_pure_is_held_to_it(tmp_path: Path) -> None:
    text = '"""Pure: what a cut means."""\n\nimport socket'
    assert broken_rules(house(tmp_path, "proxy/cut.py", text)) == [
        "proxy/cut.py imports socket: it is pure; take the value as an argument"
    ]


def test_every_exception_is_of_a_file_that_is_there() -> None:
    looked_at = {path.relative_to(ROOT).as_posix() for _, path in files(ROOT)}
    assert sorted({*EXCEPTIONS, *LIGHT} - looked_at) == []


def test_the_door_gives_the_three_rooms_one_import_name() -> None:
    for room in ROOMS:
        link = ROOT / "turnout" / room
        assert link.is_symlink(), f"turnout/{room} is no link: ln -s ../{room} turnout/{room}"
        assert link.readlink() == Path("..") / room
        assert (ROOT / room / "__init__.py").is_file()
        assert (ROOT / room / "py.typed").is_file()


def test_the_top_level_is_the_house_and_holds_no_code_of_its_own() -> None:
    for name in ("pyproject.toml", "README.md", "Makefile", "Dockerfile", "deploy", "docs"):
        assert (ROOT / name).exists(), name
    # `setup.py` is asked by setuptools when the data plane is to be compiled.
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["setup.py"]


# ---------------------------------------------------------------- the rules can fail


def house(root: Path, file: str, text: str) -> Path:
    """A tree with one file in it, and all that it might import."""
    for room in (*ROOMS, "turnout"):
        (root / room).mkdir()
        (root / room / "__init__.py").touch()
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)
    return root


@pytest.mark.parametrize(
    ("file", "text", "named", "remedy"),
    [
        ("config/model.py", "import pydantic", "pydantic", "leaf"),
        ("config/model.py", "import turnout.config.settings", "config.settings", "light"),
        ("config/table.py", "import turnout.proxy.routing", "proxy.routing", "leaf"),
        ("config/loader.py", "import httpx", "httpx", "leaf"),
        ("proxy/worker.py", "import aiohttp", "aiohttp", "uvloop and httptools"),
        ("proxy/worker.py", "import turnout.config.settings", "config.settings", "table"),
        ("proxy/worker.py", "from turnout.control import store", "control.store", "table"),
        ("proxy/worker.py", "from ..control import store", "control.store", "table"),
        ("proxy/worker.py", "from turnout import control", "turnout.control", "table"),
        ("proxy/worker.py", "def f():\n    import httpx", "httpx", "uvloop and httptools"),
        ("proxy/worker.py", "import config.table", "config.table", "turnout.config.table"),
        ("proxy/head.py", "import time", "time", "argument"),
        ("proxy/head.py", "from os import path", "os", "argument"),
        ("proxy/head.py", "import asyncio.events", "asyncio.events", "argument"),
        ("proxy/head.py", "from turnout.proxy import pool", "proxy.pool", "pass what it gives"),
        ("proxy/head.py", "from . import pool", "proxy.pool", "pass what it gives"),
        ("proxy/commands.py", "import turnout.config.table", "config.table", "light"),
        ("control/app.py", "from turnout.proxy.pool import Pool", "proxy.pool", "message"),
        ("control/app.py", "from turnout.proxy import scoreboard, pool", "proxy.pool", "message"),
        ("control/app.py", "import turnout.supervisor", "turnout.supervisor", "message"),
        ("control/app.py", "import flask", "flask", "message"),
        ("control/app.py", "import turnout.control.outer.kafka", "outer.kafka", "settings"),
        ("control/decider.py", "import random", "random", "argument"),
        ("control/decider.py", "import aiohttp", "aiohttp", "argument"),
        ("turnout/supervisor.py", "import uvloop", "uvloop", "plan"),
        ("turnout/supervisor.py", "import turnout.config.loader", "config.loader", "plan"),
        ("turnout/supervisor.py", "import turnout.control.cli", "control.cli", "plan"),
    ],
)
def test_a_broken_import_is_found_and_named_with_its_remedy(
    tmp_path: Path, file: str, text: str, named: str, remedy: str
) -> None:
    found = broken_rules(house(tmp_path, file, text))
    assert len(found) == 1, found
    assert found[0].startswith(f"{file} imports ")
    assert f"{named}:" in found[0]
    assert remedy in found[0].split(": ", 1)[1]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config/loader.py", "import ruamel.yaml, pydantic"),
        ("config/model.py", "from turnout.config.weights import Weights"),
        ("proxy/worker.py", "import asyncio, uvloop, httptools, turnout.config.table"),
        ("proxy/worker.py", "from turnout.proxy import routing\nfrom . import pool"),
        ("control/app.py", "from turnout.proxy import scoreboard, commands\nimport aiohttp"),
        ("control/app.py", "from turnout.config.loader import load"),
        ("control/decider.py", "from turnout.control.evidence import Sample"),
        ("turnout/supervisor.py", "import os\nfrom turnout.proxy.commands import Plan"),
        ("turnout/supervisor.py", "from turnout import crew"),
        ("turnout/__main__.py", "from turnout.control.entry import main"),
    ],
)
def test_an_import_that_follows_the_architecture_passes(
    tmp_path: Path, file: str, text: str
) -> None:
    assert broken_rules(house(tmp_path, file, text)) == []

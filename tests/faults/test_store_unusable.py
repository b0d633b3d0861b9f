"""A store that cannot be used: damaged, full, locked, gone, of a newer program.

Whatever it is, traffic goes on with the routing that was committed last; the API says which file,
what is wrong with it and what to do; a decision that is refused has had no effect, and one that
was acknowledged has; and once it is put right everything goes on without a restart.
"""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests import under_test
from tests.faults.store_faults import every_case
from tests.harness import SERVICE, ApiError, Bench, Product, bench, settings, until
from tests.load import Load, must_not_fail
from tests.upstreams import Upstream

PATH: Final = f"/v1/services/{SERVICE}"
BACK_S: Final = 30.0

Damage = Callable[[Path], None]


def store_of(product: Product) -> Path:
    return Path(product.configuration["state"]["path"])


def backed_up(product: Product) -> Path:
    """A copy as docs/operations.md says to make it, while Turnout runs."""
    copy = product.base / "backup.db"
    with (
        contextlib.closing(sqlite3.connect(store_of(product))) as now,
        contextlib.closing(sqlite3.connect(copy)) as backup,
    ):
        now.backup(backup)
    return copy


def restore(product: Product, copy: Path) -> None:
    """As docs/operations.md says, while Turnout runs."""
    store = store_of(product)
    aside = product.base / "broken"
    aside.mkdir(exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{store}{suffix}").rename(aside / f"{store.name}{suffix}")
    shutil.copy(copy, f"{store}.new")
    os.rename(f"{store}.new", store)


async def refused(product: Product, *, says: str) -> dict[str, Any]:
    """A decision is refused, with the file, what is wrong, and what to do; nothing changes."""
    words = routing_words(product)
    with pytest.raises(ApiError) as found:
        await product.api.weights(50)
    problem = found.value.problem
    assert found.value.status == 503
    assert problem["type"] == "urn:turnout:problem:store-unusable"
    assert str(store_of(product)) in problem["detail"], problem
    assert says in problem["detail"], problem
    assert routing_words(product) == words
    return problem


def routing_words(product: Product) -> bytes:
    routing = product.routing()
    found = bytes(routing.octets[:512])
    routing.close()
    return found


async def weigh(product: Product, blue: float) -> None:
    """Set the weights, and wait until that is over."""
    weights = {"blue": blue, "green": 100 - blue}
    await product.api.call("PUT", f"{PATH}/weights?wait=true", {"weights": weights})


async def shares(at: Bench, count: int = 20) -> set[str | None]:
    return {(await at.get("/")).upstream for _ in range(count)}


@asynccontextmanager
async def under_load(at: Bench) -> AsyncIterator[None]:
    load = Load(lambda: at.product.address, pause_s=0.02)
    async with load.running(4, 2):
        yield
        await load.more(50)
    must_not_fail(load.samples, at_least=50)


async def committed(product: Product, weight: int) -> None:
    """Wait until the copy beside the store has this weight."""
    copy = Path(f"{store_of(product)}.committed.json")

    def there() -> bool:
        with contextlib.suppress(FileNotFoundError):
            words = json.loads(copy.read_bytes())["words"]
            return any(word >> 49 & 0x3FFF == weight for _, word in words)
        return False

    await until(there, "the committed copy")


# ---------------------------------------------------------------- damaged, at a start


def no_database(store: Path) -> None:
    store.write_bytes(b"no database at all " * 1000)


def header(store: Path) -> None:
    with store.open("r+b") as file:
        file.write(b"\0" * 100)


def middle_page(store: Path) -> None:
    pages = store.stat().st_size // 4096
    with store.open("r+b") as file:
        for page in range(1, pages):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)


def truncated(store: Path) -> None:
    os.truncate(store, store.stat().st_size // 2)


def emptied(store: Path) -> None:
    os.truncate(store, 0)


def removed(store: Path) -> None:
    store.unlink()


def newer(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("UPDATE meta SET schema_version = 9999")
        connection.commit()


DAMAGES: Final[dict[Damage, str]] = {
    no_database: "not a database",
    header: "not a database",
    middle_page: "restore a copy",
    truncated: "restore a copy",
    emptied: "is empty",
    removed: "is not there",
    newer: "newer turnout",
}


QUICK: Final = (middle_page,)
"""That of every run; `TURNOUT_FAULTS=all` runs all. What each is told is held by value, too."""


def whole(store: Path) -> None:
    """Carry the write-ahead log over: everything is in the one file then."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


async def test_a_start_with_a_damaged_store_serves_what_was_committed_and_heals() -> None:
    """One after the other on the same state: each damage, what is said, and the copy restored."""
    async with bench(workers=1) as at:
        product = at.product
        assert (await product.api.switch("green"))["state"] == "completed"
        await committed(product, 10_000)
        copy = backed_up(product)
        for damage, says in DAMAGES.items():
            if not (every_case() or damage in QUICK):
                continue
            product.kill_everything()
            whole(store_of(product))
            damage(store_of(product))
            await product.start(control=False)
            assert await shares(at) == {"green"}, damage
            await until_answers(product)
            await refused(product, says=says)
            if damage is QUICK[0]:
                await the_command_line_says_it(product, says)
            assert (await product.api.http.get("/healthz")).status_code == 200
            metrics = await product.api.metrics()
            assert metrics.sum("turnout_weight", upstream="green") == 100
            restore(product, copy)
            await product.control_ready(BACK_S)
            await product.api.healthy()
            assert (await product.api.service())["weights"]["green"] == 100, damage
            await weigh(product, 25)
            await weigh(product, 0)
            await committed(product, 10_000)
            copy = backed_up(product)
            assert await shares(at) == {"green"}, damage


async def until_answers(product: Product) -> None:
    """Wait for the API, whatever it answers."""

    async def asked() -> bool:
        with contextlib.suppress(Exception):
            return bool((await product.api.http.get("/healthz")).is_success)
        return False

    async with asyncio.timeout(BACK_S):
        while not await asked():
            await asyncio.sleep(0.05)


async def the_command_line_says_it(product: Product, says: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [under_test.PYTHON, "-P", "-m", "turnout", "switch", "green"],
        env={
            **os.environ,
            "PYTHONPATH": under_test.python_path(),
            "TURNOUT_CONTROL": product.control_address,
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done
    said = " ".join(done.stderr.split())
    assert str(store_of(product)) in said, said
    assert says in said, said


# ---------------------------------------------------------------- while it runs


async def test_a_store_replaced_while_it_runs_is_taken_up_and_moves_no_traffic() -> None:
    """An older copy is restored: the traffic stays where later decisions have put it, and what
    was under way in the copy is over."""
    slow = {"strategies": {"slow": {"steps": [10, 100], "pause": "1h"}}}
    async with bench(workers=1, switchover=slow) as at, under_load(at):
        product = at.product
        begun = await product.api.switch("green", wait=False, strategy="slow")
        await product.api.state(begun["id"], "shifting")
        old = backed_up(product)
        await product.api.act("abort", begun["id"])
        await product.api.ended(begun["id"])
        assert (await product.api.switch("green"))["state"] == "completed"
        before = product.control_pid
        restore(product, old)
        await product.control_replaced(before)
        service = await product.api.settled()
        assert service["weights"] == {"blue": 0, "green": 100}
        assert await shares(at) == {"green"}
        assert (await product.api.switchover(begun["id"]))["state"] == "failed"
        await product.api.healthy()
        assert (await product.api.switch("blue"))["weights"]["blue"] == 100
        assert await shares(at) == {"blue"}


async def test_a_store_that_is_begun_anew_while_it_runs_keeps_the_traffic_where_it_is() -> None:
    async with bench(workers=1) as at, under_load(at):
        product = at.product
        assert (await product.api.switch("green"))["state"] == "completed"
        await committed(product, 10_000)
        aside = product.base / "aside"
        aside.mkdir()
        store = store_of(product)
        before = product.control_pid
        # Without the committed copy it is asked back, not made anew.
        store.rename(aside / store.name)
        await until(lambda: product.control_pid not in (0, before), "another control", BACK_S)
        await until_answers(product)
        await refused(product, says="is not there")
        assert not store.exists()
        Path(f"{store}.committed.json").rename(aside / "committed")
        await product.control_ready(BACK_S)
        assert (await product.api.service())["weights"] == {"blue": 0, "green": 100}
        assert await shares(at) == {"green"}
        await product.api.healthy()
        product.write_config({"pool": {"idle_timeout": "21s"}})
        assert (await product.api.call("POST", "/v1/reload"))["changed"] is True
        assert (await product.api.switch("blue"))["state"] == "completed"


async def test_a_store_damaged_while_it_runs_is_said_and_restored_without_a_restart() -> None:
    async with bench(workers=1) as at, under_load(at):
        product = at.product
        await weigh(product, 30)
        copy = backed_up(product)
        whole(store_of(product))
        middle_page(store_of(product))
        header(store_of(product))
        # What SQLite still has in memory may be right for a while: until it is not.
        async with asyncio.timeout(BACK_S):
            while True:
                try:
                    await weigh(product, 40)
                    await weigh(product, 30)
                except ApiError as error:
                    assert error.status == 503, error
                    assert str(store_of(product)) in error.problem["detail"]
                    break
        share = (await at.get("/")).upstream
        assert share in ("blue", "green")
        restore(product, copy)
        await product.control_ready(BACK_S)
        await product.api.healthy()
        await product.api.settled()
        await weigh(product, 100)
        assert await shares(at) == {"blue"}


# ---------------------------------------------------------------- locked


@contextlib.contextmanager
def locked(product: Product) -> Iterator[None]:
    """Another process has it for itself."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [under_test.PYTHON, "-c", script, str(store_of(product))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate()


# So that the test need not wait as long as a person would.
IMPATIENT: Final = """
from turnout.control import ledger
ledger.BUSY_TIMEOUT_S = 1.5
"""


async def test_a_locked_store_is_waited_for_and_then_said() -> None:
    faults = {"turnout.control.app": IMPATIENT}
    async with bench(workers=1, faults=faults) as at, under_load(at):
        product = at.product
        with locked(product):
            waiting = asyncio.ensure_future(product.api.weights(75))
            await asyncio.wait({waiting}, timeout=0.5)
            assert not waiting.done()
        assert (await waiting)["weights"]["blue"] == 75
        with locked(product):
            await refused(product, says="locked")
            # The next ones do not wait as long, and reading goes on.
            async with asyncio.timeout(1.2):
                await refused(product, says="fuser")
                assert (await product.api.service())["weights"]["blue"] == 75
            assert (await product.api.http.get("/readyz")).status_code == 503
        await product.control_ready(BACK_S)
        await weigh(product, 20)


# ---------------------------------------------------------------- full


async def filled(product: Product) -> None:
    """Decide until the store can take no more, five times in a row."""
    refusals = 0
    for number in range(5000):
        try:
            async with asyncio.timeout(2):
                await weigh(product, 10 + number % 50)
            refusals = 0
        except TimeoutError:
            refusals += 1  # decided, and that it has ended cannot be written
        except ApiError as error:
            refusals += 1
            assert error.status in (409, 503), error
            if error.status == 503:
                assert str(store_of(product)) in error.problem["detail"]
                assert "is it full" in error.problem["detail"]
        if refusals == 5:
            return
    raise AssertionError("it was never full")


async def test_a_disk_with_no_room_refuses_and_goes_on_once_there_is() -> None:
    """The system lets control's files grow no more: the same errors, without a disk to fill."""
    async with bench(workers=1) as at, under_load(at):
        product = at.product
        await weigh(product, 60)
        pid = product.control_pid
        size = Path(f"{store_of(product)}-wal").stat().st_size
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 20_000, -1))
        await filled(product)
        weights = (await product.api.service())["weights"]
        words = routing_words(product)
        for _ in range(3):
            with pytest.raises(ApiError):
                await product.api.weights(5)
        assert (await product.api.service())["weights"] == weights
        assert routing_words(product) == words
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        await product.control_ready(BACK_S)
        assert (await product.api.settled())["weights"] == weights
        assert (await product.api.switch("green"))["state"] == "completed"
        assert product.control_pid == pid


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where we may mount one."""
    if not every_case():
        pytest.skip("TURNOUT_FAULTS=all mounts a small file system, where it is root")
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system can only be mounted by root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no small file system here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


@asynccontextmanager
async def on_disk(disk: Path) -> AsyncIterator[Bench]:
    async with Upstream("blue") as blue, Upstream("green") as green:
        configuration = settings([blue.address], [green.address], workers=1)
        configuration["state"] = {"path": str(disk / "turnout.db")}
        product = Product(configuration)
        try:
            await product.start()
            await product.api.healthy()
            yield Bench(product, blue, green)
        finally:
            await product.close()


async def test_a_full_file_system_also_over_a_start_of_control(small_disk: Path) -> None:
    async with on_disk(small_disk) as at, under_load(at):
        product = at.product
        await weigh(product, 60)
        fill = small_disk / "fill"
        with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        await filled(product)
        weights = (await product.api.service())["weights"]
        # Control dies now: it comes back, and says so, as it cannot write that it did.
        before = product.control_pid
        os.kill(before, 9)
        await until(lambda: product.control_pid not in (0, before), "another control", BACK_S)
        await until_answers(product)
        await refused(product, says="disk")
        fill.unlink()
        await product.control_ready(BACK_S)
        assert (await product.api.settled())["weights"] == weights
        await product.api.healthy()
        assert (await product.api.switch("green"))["state"] == "completed"


async def mounted_anew(disk: Path, mode: str) -> None:
    """Make it read-only or not, once nobody has a file of it open for writing."""
    command = ["mount", "-o", f"remount,{mode},size=1m", "tmpfs", str(disk)]

    async def done() -> bool:
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        return await process.wait() == 0

    async with asyncio.timeout(BACK_S):
        while not await done():
            await asyncio.sleep(0.05)


async def test_a_read_only_file_system_at_a_start(small_disk: Path) -> None:
    async with on_disk(small_disk) as at:
        product = at.product
        assert (await product.api.switch("green"))["state"] == "completed"
        await committed(product, 10_000)
        product.kill_everything()
        await mounted_anew(small_disk, "ro")
        await product.start(control=False)
        assert await shares(at) == {"green"}
        await until_answers(product)
        await refused(product, says="writable")
        await mounted_anew(small_disk, "rw")
        await product.control_ready(BACK_S)
        await product.api.healthy()
        assert (await product.api.switch("blue"))["state"] == "completed"

"""The supervisor's parts: sockets, processes, the runtime directory."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from turnout.adoption import live_workers
from turnout.children import CONTROL_MODULE, DESCRIPTORS_MAX, Backoff, Child, Link, status_text
from turnout.listening import SHARED, ListenError, ListeningSockets, refuse_if_in_use
from turnout.proxy.commands import EXIT_OTHER_GENERATION, FrameReader, Sockets, decode
from turnout.proxy.scoreboard import R_PID, R_STATE, Geometry, Scoreboard, WorkerState
from turnout.proxy.scoreboards import Scoreboards
from turnout.runtime import RuntimeDirectory, RuntimeDirectoryError

# ---------------------------------------------------------------- sockets


def owners(sockets: ListeningSockets) -> list[tuple[object, object]]:
    return [(record["bind"], record["owner"]) for record, _ in sockets.records()]


def test_each_worker_has_a_socket_of_its_own_on_the_same_port() -> None:
    sockets = ListeningSockets(may_share=False)
    assert sockets.change(["127.0.0.1:0"], 3) == []
    assert owners(sockets) == [("127.0.0.1:0", 0), ("127.0.0.1:0", 1), ("127.0.0.1:0", 2)]
    ports = {socket.socket(fileno=os.dup(fd)).getsockname()[1] for _, fd in sockets.records()}
    assert sockets.addresses() == {"127.0.0.1:0": f"127.0.0.1:{ports.pop()}"}
    assert ports == set()
    sockets.close()


def test_sockets_of_workers_that_are_no_more_stay_open_and_new_ones_are_added() -> None:
    sockets = ListeningSockets(may_share=False)
    sockets.change(["127.0.0.1:0"], 2)
    before = sockets.records()
    assert sockets.change(["127.0.0.1:0"], 1) == []
    assert sockets.records() == before
    sockets.change(["127.0.0.1:0"], 3)
    assert sockets.records()[:2] == before
    assert len(sockets.records()) == 3
    sockets.close()


def test_a_change_that_fails_changes_nothing_and_leaves_nothing_open() -> None:
    sockets = ListeningSockets(may_share=False)
    sockets.change(["127.0.0.1:0"], 1)
    before, open_before = sockets.records(), len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"{taken} is in use"):
            sockets.change(["127.0.0.1:0", "[::1]:0", taken], 4)
    assert sockets.records() == before
    assert len(os.listdir("/proc/self/fd")) == open_before
    sockets.close()


def test_a_bind_that_is_gone_is_returned_to_be_closed_by_the_caller() -> None:
    sockets = ListeningSockets(may_share=False)
    sockets.change(["127.0.0.1:0", "[::1]:0"], 2)
    unwanted = sockets.change(["[::1]:0"], 2)
    assert [(entry.bind, entry.owner) for entry in unwanted] == [
        ("127.0.0.1:0", 0),
        ("127.0.0.1:0", 1),
    ]
    assert unwanted[0].socket.fileno() >= 0
    for entry in unwanted:
        entry.close()
    sockets.close()


def test_a_port_alone_is_every_interface_of_both_families() -> None:
    sockets = ListeningSockets(may_share=False)
    sockets.change([":0"], 1)
    port = int(sockets.addresses()[":0"].rpartition(":")[2])
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), timeout=5).close()
    sockets.close()


def test_a_port_of_this_very_user_is_in_use_too() -> None:
    sockets = ListeningSockets(may_share=False)
    sockets.change(["127.0.0.1:0"], 1)
    with pytest.raises(ListenError, match="ss -lntxp"):
        refuse_if_in_use(sockets.addresses()["127.0.0.1:0"])
    sockets.close()


def test_a_unix_socket_is_one_for_all_and_its_file_goes_with_it(tmp_path: Path) -> None:
    bind = f"unix:{tmp_path}/s"
    sockets = ListeningSockets(may_share=False)
    sockets.change([bind], 3)
    assert owners(sockets) == [(bind, SHARED)]
    assert sockets.addresses() == {bind: bind}
    with pytest.raises(ListenError, match="is in use"):
        ListeningSockets(may_share=False).change([bind], 1)
    sockets.close()
    assert not (tmp_path / "s").exists()


def test_the_file_of_whoever_listens_there_now_is_not_removed(tmp_path: Path) -> None:
    bind = f"unix:{tmp_path}/s"
    sockets = ListeningSockets(may_share=False)
    sockets.change([bind], 1)
    (tmp_path / "s").rename(tmp_path / "kept")  # so that its inode is not used again
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/s")
        sockets.close()
        assert (tmp_path / "s").exists()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenError, match="no socket"):
        ListeningSockets(may_share=False).change([f"unix:{tmp_path}/s"], 1)
    assert (tmp_path / "s").read_text() == "precious"


@pytest.mark.parametrize(
    ("bind", "remedy"),
    [
        ("192.0.2.1:0", "no interface of this machine"),
        ("unix:/nonexistent/s", "directory does not exist"),
    ],
)
def test_why_a_bind_cannot_be_had_is_said_with_what_to_do(bind: str, remedy: str) -> None:
    with pytest.raises(ListenError, match=remedy) as raised:
        ListeningSockets(may_share=False).change([bind], 1)
    assert str(raised.value).startswith(bind)


# ---------------------------------------------------------------- the link to a worker


def receive(end: socket.socket) -> tuple[list[Sockets], list[int]]:
    """All that is there now."""
    frames = FrameReader()
    messages: list[Sockets] = []
    descriptors: list[int] = []
    end.setblocking(False)
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(end, 65536, 253)
        except BlockingIOError:
            return messages, descriptors
        descriptors += fds
        for _, payload in frames.feed(data):
            message = decode(payload)
            assert isinstance(message, Sockets)
            messages.append(message)


def test_a_set_too_large_for_one_message_is_sent_in_several() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    with open(os.devnull, "rb") as file:
        records: list[tuple[dict[str, object], int]] = [
            ({"bind": str(number), "owner": 0}, file.fileno())
            for number in range(DESCRIPTORS_MAX + 50)
        ]
        link.send(records)
        messages, descriptors = receive(theirs)
    assert [message.more for message in messages] == [True, False]
    assert [entry["bind"] for message in messages for entry in message.sockets] == [
        record["bind"] for record, _ in records
    ]
    assert len(descriptors) == len(records)
    for descriptor in descriptors:
        os.close(descriptor)
    link.close()
    theirs.close()


def test_a_worker_that_does_not_read_blocks_nobody_and_gets_all_later() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    link = Link(ours)
    with open(os.devnull, "rb") as file:
        for number in range(200):
            link.send([({"bind": str(number) * 20, "owner": 0}, file.fileno())])
    assert link.flush()
    got: list[Sockets] = []
    held: list[int] = []
    frames = FrameReader()
    deadline_s = time.monotonic() + 10
    while len(got) < 200 and time.monotonic() < deadline_s:
        link.flush()
        theirs.settimeout(1)
        data, fds, _, _ = socket.recv_fds(theirs, 65536, 253)
        held += fds
        got += [message for _, p in frames.feed(data) if isinstance(message := decode(p), Sockets)]
    assert [message.sockets[0]["bind"] for message in got] == [str(n) * 20 for n in range(200)]
    assert len(held) == 200
    for descriptor in held:
        os.close(descriptor)
    link.close()
    theirs.close()


# ---------------------------------------------------------------- processes


def test_starts_are_further_apart_the_sooner_it_dies() -> None:
    backoff = Backoff()
    assert [backoff.delay_s(0.1, 1) for _ in range(9)] == [
        0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0,
    ]  # fmt: skip
    assert backoff.delay_s(60.0, -9) == 0.0
    assert backoff.delay_s(60.0, EXIT_OTHER_GENERATION) == 10.0


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (None, "ended"),
        (0, "exit 0"),
        (-9, "killed by SIGKILL"),
        (-250, "killed by signal 250"),
        (78, "exit 78: another version of turnout is installed"),
    ],
)
def test_an_exit_status_is_said_for_people(status: int | None, text: str) -> None:
    assert status_text(status) == text


def test_a_process_of_somebody_else_is_never_adopted(tmp_path: Path) -> None:
    # The number was a worker's once, and has been given to another process since.
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "turnout.proxy.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        board = Scoreboard.create(tmp_path, Geometry(2, 1, 1), 1)
        board.words[board.region(0) + R_PID] = other.pid
        board.words[board.region(0) + R_STATE] = WorkerState.SERVING
        assert live_workers(Scoreboards(tmp_path), tmp_path, 0.0) == []
        assert Child.adopt(other.pid, CONTROL_MODULE, tmp_path, 0.0) is None
        assert other.poll() is None
        other.kill()


def test_a_live_worker_of_this_directory_is_found(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"),
        *("turnout.proxy.worker", "--runtime-dir", str(tmp_path)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()  # its name is there only some time after Popen returns
        board = Scoreboard.create(tmp_path, Geometry(2, 1, 1), 1)
        board.words[board.region(1) + R_PID] = worker.pid
        board.words[board.region(1) + R_STATE] = WorkerState.DRAINING
        [found] = live_workers(Scoreboards(tmp_path), tmp_path, 0.0)
        child = found.child
        assert (found.region, child.pid) == (1, worker.pid)
        child.signal(signal.SIGKILL)
        assert worker.wait(5) == -signal.SIGKILL
        child.signal(signal.SIGTERM)  # to one that is gone: nothing
        child.reap()


# ---------------------------------------------------------------- the runtime directory


def test_the_directory_is_private_and_one_supervisors(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    held = RuntimeDirectory(path)
    assert path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(RuntimeDirectoryError, match=f"process {os.getpid()}"):
        RuntimeDirectory(path)
    held.write("a", b"1")
    held.write("a", b"22")
    assert (path / "a").read_bytes() == b"22"
    assert (path / "a").stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in path.iterdir()) == ["a", "lock"]


def test_a_directory_on_a_disk_is_warned_of(tmp_path: Path) -> None:
    on_disk = RuntimeDirectory(tmp_path / "run").warning
    assert ("tmpfs" in on_disk) == (os.stat("/dev/shm").st_dev != tmp_path.stat().st_dev)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeDirectoryError, match="Choose another one"):
        RuntimeDirectory(tmp_path / "file" / "run")

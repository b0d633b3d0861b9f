"""The file of the API's Unix socket: who may connect, and what may lie in its place."""

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from tests.harness import Product, settings, until
from tests.upstreams import Upstream
from turnout.config.address import Address
from turnout.config.loader import load_text
from turnout.control.api_listener import ApiListener, CannotListen, open_sockets

TOKENS: Final = [{"name": "ci", "scope": "write", "token": "write-token-0123456789"}]


def bind_of(path: Path) -> Address:
    return Address.parse_bind(f"unix:{path}")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_file_has_the_mode_that_is_wanted(tmp_path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        (made,) = open_sockets(bind_of(tmp_path / "s"), mode)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "s") == mode
    made.close()


def test_the_file_of_who_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (first,) = open_sockets(bind_of(path), 0o600)
    first.close()
    (second,) = open_sockets(bind_of(path), 0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    second.close()


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (first,) = open_sockets(bind_of(path), 0o600)
    with pytest.raises(CannotListen, match="is in use: another process listens there"):
        open_sockets(bind_of(path), 0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "s", tmp_path / "precious"
    other.write_text("precious")
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(other)
    with pytest.raises(CannotListen, match="a file that is no socket is there"):
        open_sockets(bind_of(path), 0o600)
    assert os.path.lexists(path)
    assert other.read_text() == "precious"


async def run_with(control: dict[str, Any]) -> tuple[int, bool]:
    """The socket file's mode while the product runs, and whether the file is there behind it."""
    async with Upstream("blue") as blue:
        product = Product(settings([blue.address], [], workers=1, health="off"))
        path = Path(product.control_address[5:])
        product.write_config({"control": {"bind": product.control_address, **control}})
        try:
            await product.start(control=False)
            await until(lambda: "control.started" in product.log(), "control", 20.0)
            mode = mode_of(path)
            os.kill(product.control_pid, 9)
            await until(lambda: product.log().count("control.started") == 2, "control", 20.0)
            assert mode_of(path) == mode
            await product.stop()
            return mode, path.exists()
        finally:
            await product.close()


async def test_the_running_product_says_who_may_connect() -> None:
    """Also after a death of control; and its file goes with it."""
    assert await run_with({"socket_mode": "0660"}) == (0o660, False)


@pytest.mark.parametrize(("given", "mode"), [({}, 0o600), ({"tokens": TOKENS}, 0o666)])
def test_without_tokens_the_owner_alone_may_connect(
    tmp_path: Path, given: dict[str, Any], mode: int
) -> None:
    control = {"bind": f"unix:{tmp_path / 's'}", **given}
    document = {**settings(["127.0.0.1:1"], []), "control": control}
    read = load_text(json.dumps(document)).control
    assert ApiListener(web.Application(), lambda: read, print, print).mode == mode

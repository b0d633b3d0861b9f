"""TLS of the control API: real certificates, the running product, the command line."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
import trustme

from tests import under_test
from tests.harness import Product, settings, until
from tests.upstreams import Upstream
from turnout.config.model import ApiTls
from turnout.config.tls_files import TlsError, first_certificate, not_after, server_context

CLI_LIMIT_S: Final = 20.0


class Files:
    """Certificates in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.ca = trustme.CA()
        self.ca_file = self._write("ca.pem", self.ca.cert_pem)
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.issue()

    def issue(self, *names: str, ca: trustme.CA | None = None, **more: Any) -> bytes:
        """A new pair in the place of the one before; returns the certificate in DER."""
        made = (ca or self.ca).issue_cert(*(names or ("localhost", "127.0.0.1")), **more)
        self._write("key.pem", made.private_key_pem)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        found = first_certificate(self.cert.read_bytes())
        assert found is not None
        return found

    def client(self, ca: trustme.CA | None = None) -> Path:
        """A client's certificate with its key in the same file."""
        made = (ca or self.ca).issue_cert("someone@example.org")
        return self._write("client.pem", made.private_key_and_cert_chain_pem)

    def _write(self, name: str, blob: trustme.Blob) -> Path:
        path = self.directory / name
        path.write_bytes(blob.bytes())
        path.chmod(0o600)
        return path


class Secure:
    """The product, whose API speaks TLS."""

    def __init__(self, product: Product, files: Files, bind: str) -> None:
        self.product = product
        self.files = files
        self.bind = bind

    def trusting(self, ca: Path | None = None) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(ca or self.files.ca_file))

    def http(self, context: ssl.SSLContext | None = None) -> httpx.AsyncClient:
        """A client whose connections are its own: a reload concerns later ones."""
        return httpx.AsyncClient(
            base_url=f"https://{self.bind}", verify=context or self.trusting(), timeout=10
        )

    async def get(self, path: str = "/v1/services") -> httpx.Response:
        async with self.http() as client:
            return await client.get(path)

    async def peer(self) -> bytes:
        """The certificate that a new connection gets, in DER."""
        context = self.trusting()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        host, port = self.bind.split(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    async def cli(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit code, and what it printed on both streams."""
        kept = {name: value for name, value in os.environ.items() if "TURNOUT" not in name}
        process = await asyncio.create_subprocess_exec(
            under_test.PYTHON, "-P", "-m", "turnout", *words,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.product.base,
            env={**kept, "PYTHONPATH": under_test.python_path(), **environment},
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), CLI_LIMIT_S)
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def reload(self, tls: Mapping[str, str] | None) -> httpx.Response:
        control = dict(self.product.configuration["control"])
        control.pop("tls", None)
        if tls is not None:
            control["tls"] = dict(tls)
        self.product.write_config({"control": control})
        scheme = "https" if self.spoken else "http"
        async with httpx.AsyncClient(
            base_url=f"{scheme}://{self.bind}", verify=self.trusting()
        ) as client:
            answer = await client.post("/v1/reload")
        if answer.is_success:
            self.spoken = tls is not None
        return answer

    spoken = True


@contextlib.asynccontextmanager
async def served(**tls: str) -> AsyncIterator[Secure]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{probe.getsockname()[1]}"
    async with Upstream("blue") as blue:
        product = Product(settings([blue.address], [], workers=1, health="off"))
        files = Files(product.base / "pki")
        if tls.get("client_ca"):
            tls["client_ca"] = str(files.ca_file)
        pair = {"cert": str(files.cert), "key": str(files.key)}
        product.write_config({"control": {"bind": bind, "tls": {**pair, **tls}}})
        try:
            await product.start(control=False)
            await until(lambda: "control.started" in product.log(), "control", 20.0)
            yield Secure(product, files, bind)
        finally:
            await product.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure() -> AsyncIterator[Secure]:
    async with served() as made:
        yield made


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.asyncio(loop_scope="module")
async def test_the_api_speaks_tls_and_nothing_else(secure: Secure) -> None:
    assert (await secure.get()).status_code == 200
    async with httpx.AsyncClient() as plain:
        with pytest.raises(httpx.TransportError):
            await plain.get(f"http://{secure.bind}/healthz")
    old = secure.trusting()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with secure.http(old) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/healthz")
    async with httpx.AsyncClient(verify=ssl.create_default_context()) as stranger:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.get(f"https://{secure.bind}/healthz")


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_browser_must_not_do_it_must_not_over_tls_either(secure: Secure) -> None:
    async with secure.http() as client:
        same = await client.get("/v1/services", headers={"Origin": f"https://{secure.bind}"})
        other = await client.get("/v1/services", headers={"Origin": "https://evil.example"})
        renamed = await client.get("/v1/services", headers={"Host": "evil.example"})
    assert [same.status_code, other.status_code, renamed.status_code] == [200, 403, 403]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_command_line_trusts_the_right_ones_only(secure: Secure) -> None:
    url, ca = f"https://{secure.bind}", str(secure.files.ca_file)
    assert (await secure.cli("status", "--control", url, TURNOUT_CONTROL_CA=ca))[0] == 0
    code, said = await secure.cli("status", "--control", url)
    assert code == 3
    assert "Name its authority with TURNOUT_CONTROL_CA" in said
    # By the configuration: that very certificate is trusted, whatever its name.
    secure.files.issue("turnout.example")
    assert (await secure.reload(secure.product.configuration["control"]["tls"])).is_success
    config = str(secure.product.config_file)
    assert (await secure.cli("status", "--config", config))[0] == 0
    code, said = await secure.cli("status", "--control", url, TURNOUT_CONTROL_CA=ca)
    assert code == 3
    assert "certificate is not trusted" in said
    # Another one of the same authority is not that one.
    secure.files.issue("turnout.example")
    code, said = await secure.cli("status", "--config", config)
    assert code == 3
    assert "certificate is not trusted" in said
    code, said = await secure.cli("status", "--control", secure.bind)
    assert code == 3
    assert "write https://" in said
    code, said = await secure.cli("status", "--control", url, TURNOUT_CONTROL_CA="/nowhere")
    assert code == 2
    assert "/nowhere" in said
    secure.files.issue()
    async with httpx.AsyncClient(base_url=url, verify=False) as anybody:
        assert (await anybody.post("/v1/reload")).is_success


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reload_reads_the_certificate_anew_and_open_connections_stay(
    secure: Secure,
) -> None:
    tls = secure.product.configuration["control"]["tls"]
    before = await secure.peer()
    async with secure.http() as kept:
        assert (await kept.get("/healthz")).status_code == 200
        after = secure.files.issue()
        assert await secure.peer() == before
        assert (await secure.reload(tls)).is_success
        assert await secure.peer() == after != before
        assert (await kept.get("/healthz")).status_code == 200
    # And TLS may come and go.
    assert (await secure.reload(None)).is_success
    async with httpx.AsyncClient() as plain:
        assert (await plain.get(f"http://{secure.bind}/healthz")).status_code == 200
    assert (await secure.reload(tls)).is_success
    assert await secure.peer() == after


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reload_with_files_that_do_not_fit_changes_nothing(secure: Secure) -> None:
    before = await secure.peer()
    key = secure.files.key.read_bytes()
    secure.files.key.write_bytes(secure.files.ca.issue_cert("x").private_key_pem.bytes())
    answer = await secure.reload(secure.product.configuration["control"]["tls"])
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert "control.tls.key is" in detail
    assert f"it is not the key of the certificate in {secure.files.cert}" in detail
    assert await secure.peer() == before
    secure.files.key.write_bytes(key)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_restarted_control_whose_key_has_gone_serves_nothing_in_the_clear(
    secure: Secure,
) -> None:
    """Everything else of it works, and a reload brings the API back."""
    product, hidden = secure.product, secure.files.key.with_suffix(".hidden")
    secure.files.key.rename(hidden)
    before = product.control_pid
    os.kill(before, 9)
    await until(lambda: product.log().count("control.started") == 2, "control", 20.0)
    async with httpx.AsyncClient(verify=False) as anybody:
        for scheme in ("http", "https"):
            with pytest.raises(httpx.TransportError):
                await anybody.get(f"{scheme}://{secure.bind}/healthz", timeout=1)
    assert "control.tls.key: there is no such file" in product.log()
    hidden.rename(secure.files.key)
    os.kill(product.supervisor_pid, 1)
    await until(
        lambda: "configuration.reloaded" in product.log().rpartition("started")[2], "reload"
    )
    assert (await secure.get()).status_code == 200


async def test_clients_need_a_certificate_where_the_settings_say_so() -> None:
    async with served(client_ca="yes") as secure:
        async with secure.http() as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/healthz")
        mine, foreign = secure.files.client(), trustme.CA()
        context = secure.trusting()
        context.load_cert_chain(mine)
        async with secure.http(context) as client:
            assert (await client.get("/healthz")).status_code == 200
        config = str(secure.product.config_file)
        assert (await secure.cli("status", "-c", config))[0] == 3
        known = {"TURNOUT_CONTROL_CERT": str(mine)}
        assert (await secure.cli("status", "-c", config, **known))[0] == 0
        context = secure.trusting()
        context.load_cert_chain(secure.files.client(foreign))
        async with secure.http(context) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/healthz")


# ---------------------------------------------------------------- by value


def pair(directory: Path) -> ApiTls:
    files = Files(directory)
    return ApiTls(str(files.cert), str(files.key), None)


def test_a_pair_that_fits_is_taken(tmp_path: Path) -> None:
    context = server_context(pair(tmp_path / "a"))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("key", "content", "what"),
    [
        ("cert", None, "there is no such file"),
        ("key", None, "there is no such file"),
        ("cert", b"", "no certificate in PEM"),
        ("cert", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
        ("key", b"hello", "no private key in PEM"),
        ("key", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "passphrase"),
        ("key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be used"),
        ("cert", b"x" * 1_100_000, "more than"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, key: str, content: bytes | None, what: str
) -> None:
    tls = pair(tmp_path / "a")
    path = Path(tls.cert if key == "cert" else tls.key)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(TlsError, match=what) as refused:
        server_context(tls)
    # OpenSSL does not say of which of the two it could make nothing.
    assert refused.value.key == ("cert" if what == "cannot be used" else key)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    tls = pair(tmp_path / "a")
    Path(tls.key).unlink()
    os.mkfifo(tls.key)
    with pytest.raises(TlsError, match="no regular file"):
        server_context(tls)


@pytest.mark.parametrize("year", [2020, 2049, 2051])
def test_until_when_a_certificate_is_valid_is_read_from_it(tmp_path: Path, year: int) -> None:
    ends = datetime(year, 7, 3, 4, 5, 6, tzinfo=UTC)
    files = Files(tmp_path / "a")
    der = files.issue("a.example", not_after=ends, not_before=ends - timedelta(days=30))
    assert not_after(der) == ends.timestamp()
    for cut in range(0, 120, 7):
        assert not_after(der[:cut]) is None


def test_check_warns_of_a_certificate_that_ends_and_of_a_key_that_others_read(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path / "a")
    now = datetime.now(UTC)
    config = tmp_path / "turnout.yaml"
    config.write_text(
        json.dumps(
            {
                "listeners": [{"bind": "127.0.0.1:8080"}],
                "control": {"tls": {"cert": str(files.cert), "key": str(files.key)}},
                "services": {
                    "shop": {
                        "upstreams": {
                            "blue": {"servers": ["127.0.0.1:9001"]},
                            "green": {"servers": []},
                        }
                    }
                },
            }
        )
    )

    def check() -> tuple[int, str]:
        done = subprocess.run(
            [under_test.PYTHON, "-P", "-m", "turnout", "check", "-c", str(config)],
            capture_output=True, text=True, timeout=CLI_LIMIT_S, check=False,
            env={**os.environ, "PYTHONPATH": under_test.python_path()},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    assert "warning" not in check()[1]
    files.issue("a", not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))
    files.key.chmod(0o640)
    code, said = check()
    assert code == 0
    assert f"warning: control.tls.cert {files.cert} expired at 20" in said
    assert f"chmod 0600 {files.key}" in said
    config.write_text(config.read_text().replace(str(files.key), str(files.ca_file)))
    code, said = check()
    assert code == 2
    assert f"{config}:1: control.tls.key is" in said
    assert "it holds no private key in PEM" in said

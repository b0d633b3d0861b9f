"""What answers behind the proxies: nginx for plain answers and files, `app` for the rest.

Both listen on two ports, one for each upstream of Turnout: the two upstreams of a service may
not share an address, and both are to be healthy.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.processes import HarnessError, Ports, start, stop, tail, wait_until

ROOT: Final = Path(__file__).resolve().parent.parent
FILES: Final = {"10k": 10 << 10, "64k": 64 << 10, "1m": 1 << 20, "64m": 64 << 20}
SPARSE: Final = ("1g", 1 << 30)
"""A file of holes: slow readers never take much of it."""

# What a careful application answers to a browser: with the fields that nginx itself and the
# proxies add there are 20.
BROWSER_FIELDS: Final = {
    "Set-Cookie": "session=$request_id; Path=/; HttpOnly; Secure; SameSite=Lax",
    "Cache-Control": "private, no-cache, max-age=0, must-revalidate",
    "ETag": '\\"$request_id\\"',
    "Last-Modified": "Wed, 05 Jun 2024 10:00:00 GMT",
    "Expires": "Thu, 01 Jan 1970 00:00:00 GMT",
    "Vary": "Accept-Encoding, Cookie",
    "Content-Language": "en-GB",
    "Content-Security-Policy":
        "default-src 'self'; img-src 'self' data: https://images.shop.example; "
        "script-src 'self' 'nonce-$request_id'; object-src 'none'; frame-ancestors 'none'",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Trace": "$request_id",
    "Server-Timing": "app;dur=$msec",
}  # fmt: skip


def nginx_text(directory: Path, ports: tuple[int, int]) -> str:
    """The origin's configuration. /echo says what of the request has arrived."""
    fields = "\n".join(f'   add_header {name} "{value}";' for name, value in BROWSER_FIELDS.items())
    listen = "\n".join(f"  listen 127.0.0.1:{port} backlog=4096;" for port in ports)
    scratch = "\n".join(
        f" {name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Its worker gives up root, and could not read this directory then.
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""daemon off;
{user}
pid {directory}/nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 16000; }}
http {{
 access_log off;
 keepalive_requests 1000000000;
 keepalive_timeout 3600;
 sendfile on;
 tcp_nopush on;
{scratch}
 server {{
{listen}
  location / {{ default_type text/plain; return 200 "{"x" * 100}"; }}
  location /f/ {{ default_type application/octet-stream; alias {directory}/; }}
  location /echo {{
   default_type text/plain;
   return 200 "$request_uri|$http_cookie|$http_x_trace";
  }}
  location /h/ {{
   default_type text/html;
{fields}
   return 200 "{"x" * 100}";
  }}
 }}
}}
"""


def make_files(directory: Path) -> None:
    """The files that nginx serves, of bytes that do not compress."""
    chunk = random.Random(1).randbytes(1 << 20)
    for name, size in FILES.items():
        with (directory / f"{name}.bin").open("wb") as file:
            for start_at in range(0, size, len(chunk)):
                file.write(chunk[: size - start_at])
    name, size = SPARSE
    with (directory / f"{name}.bin").open("wb") as file:
        os.truncate(file.fileno(), size)


@dataclass(frozen=True, slots=True)
class Ends:
    """Ports of the two upstreams."""

    blue: int
    green: int


class Origins:
    """The two origins, running."""

    def __init__(self, directory: Path, ports: Ports, cores: frozenset[int]) -> None:
        self.directory = directory
        self.cores = cores
        self.nginx = Ends(ports.take(), ports.take())
        self.app = Ends(ports.take(), ports.take())
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Raises HarnessError when one does not come up."""
        self.directory.mkdir()
        make_files(self.directory)
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            raise HarnessError("nginx is not installed: it is what answers behind the proxies")
        config = self.directory / "nginx.conf"
        config.write_text(nginx_text(self.directory, (self.nginx.blue, self.nginx.green)))
        log = self.directory / "origin.log"
        self._processes.append(start([program, "-c", config], cores=self.cores, log=log))
        app = [sys.executable, "-m", "benchmarks.app", str(self.app.blue), str(self.app.green)]
        self._processes.append(
            start(app, cores=self.cores, log=log, environment={"PYTHONPATH": str(ROOT)})
        )
        for port in (self.nginx.blue, self.nginx.green, self.app.blue, self.app.green):
            wait_until(partial(answers, port), f"the origin on {port}: {tail(log)}")

    def stop(self) -> None:
        for process in self._processes:
            stop(process)


def answers(port: int) -> bool:
    """Whether someone accepts there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

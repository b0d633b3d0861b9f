"""The control API as the command line calls it: one class, and errors that carry exit codes."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import httpx

from turnout.config.address import Address, AddressKind
from turnout.config.model import Configuration

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_REFUSED: Final = 4
EXIT_INTERRUPTED: Final = 130

DEFAULT_CONTROL: Final = "127.0.0.1:9180"
ANSWER_TIMEOUT_S: Final = 10.0
"""After so long without an answer control is busy, or stuck: that is then asked."""
LOST_S: Final = 30.0
"""How long control may be away while its answer is waited for."""
POLL_S: Final = 0.15
FINAL_STATES: Final = frozenset(("completed", "rolled_back", "aborted", "failed"))

Json = dict[str, Any]


class CommandError(Exception):
    """Ends the command: what to print, and the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Unreachable(CommandError):
    """The control API did not answer at all."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"the control API at {where} cannot be reached: {why}. Is turnout running there? "
            "Name another with --control or TURNOUT_CONTROL.",
            EXIT_UNREACHABLE,
        )


class Problem(CommandError):
    """The API answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.document = document
        title = str(document.get("title") or f"status {status}")
        detail = str(document.get("detail") or "")
        text = f"{title}: {detail}" if detail and detail != title else title
        for fault in document.get("errors") or ():
            if isinstance(fault, Mapping):
                where = fault.get("field") or fault.get("pointer") or fault.get("name") or ""
                text += f"\n  {where}: {fault.get('detail') or fault.get('message') or ''}"
        # Wrong is the configuration, not the call: as `turnout check` would say.
        wrong = str(document.get("type", "")).endswith(":configuration-refused")
        super().__init__(text, EXIT_USAGE if wrong else exit_code(status))


def exit_code(status: int) -> int:
    """The command's exit code for an answer's status.

    2: wrong use (400, 404, 405, 501); 4: refused (401, 403, 409, 412, 422); 1: it failed.
    """
    if status in (400, 404, 405, 501):
        return EXIT_USAGE
    return EXIT_REFUSED if 400 <= status < 500 else EXIT_FAILED


def control_address(option: str | None, config: str | None) -> str:
    """Where the API is: the option's, `$TURNOUT_CONTROL`'s, the configuration's, the default.

    Raises CommandError(2) when the configuration has to be asked and does not say it clearly.
    """
    named = option or os.environ.get("TURNOUT_CONTROL")
    if named:
        return named
    # Only here: what reads a configuration takes longer to import than a call takes.
    from turnout.config.loader import SettingsError, control_bind
    from turnout.config.origin import find_file

    file = find_file(config, os.environ)
    if file is None:
        return DEFAULT_CONTROL
    try:
        return str(control_bind(file) or DEFAULT_CONTROL)
    except SettingsError as error:
        hint = "The control API can be named with --control or TURNOUT_CONTROL."
        raise CommandError(f"{error}\n{hint}", EXIT_USAGE) from None


def read_configuration(file: Path) -> Configuration:
    """Raises CommandError(2) with every problem of the file, a line each."""
    from turnout.config.loader import SettingsError, load

    try:
        return load(file)
    except SettingsError as error:
        raise CommandError(str(error), EXIT_USAGE) from None


class Client:
    """The API at one address. `where` is `host:port`, a URL, or `unix:/path`."""

    def __init__(self, where: str, token: str | None = None) -> None:
        self.where = where
        headers = {"Accept": "application/json"}
        token = token or os.environ.get("TURNOUT_TOKEN")
        if token:
            headers["Authorization"] = f"Bearer {token}"
        transport: httpx.HTTPTransport | None = None
        if "://" in where:
            base = where
        else:
            try:
                address = Address.parse_bind(where)
            except ValueError:
                try:
                    address = Address.parse(where)
                except ValueError as error:
                    raise CommandError(f"--control is {where!r}; {error}", EXIT_USAGE) from None
            if address.kind is AddressKind.UNIX:
                transport = httpx.HTTPTransport(uds=address.path)
                base = "http://localhost"
            else:
                host = _reachable(address.host)
                base = f"http://{host}:{address.port}"
        self._http = httpx.Client(
            base_url=base,
            headers=headers,
            timeout=ANSWER_TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> Json:
        """Make one call; returns the JSON of a 2xx answer.

        A write carries a key, so that one whose answer was lost (control died meanwhile) or
        takes long is asked for again without being done twice. Raises Unreachable, or Problem
        for any other answer.
        """
        write = method != "GET"
        headers = {"Idempotency-Key": uuid.uuid4().hex} if write else {}
        lost_at: float | None = None
        while True:
            began = time.monotonic()
            try:
                answer = self._http.request(
                    method, path, json=body, params=query or None, headers=headers
                )
                break
            except httpx.HTTPError as error:
                if write and isinstance(error, httpx.ReadTimeout) and self._lives():
                    lost_at = None
                    continue
                never_sent = lost_at is None and isinstance(error, httpx.ConnectError)
                lost_at = began if lost_at is None else lost_at
                if not write or never_sent or time.monotonic() - lost_at > LOST_S:
                    raise Unreachable(self.where, _why(error)) from None
                time.sleep(POLL_S)
        try:
            document = answer.json() if answer.content else {}
        except ValueError:
            document = {"title": f"the answer is not JSON: {answer.text[:200]!r}"}
            if answer.is_success:
                raise Problem(502, document) from None
        if not answer.is_success:
            raise Problem(answer.status_code, document if isinstance(document, dict) else {})
        return cast(Json, document)

    def _lives(self) -> bool:
        """Whether control answers at all: one that is stuck takes connections all the same."""
        try:
            return self._http.get("/healthz").is_success
        except httpx.HTTPError:
            return False

    def text(self, path: str) -> str:
        """Get what is not JSON. Raises Unreachable, or Problem."""
        try:
            answer = self._http.get(path, headers={"Accept": "*/*"})
        except httpx.HTTPError as error:
            raise Unreachable(self.where, _why(error)) from None
        if not answer.is_success:
            raise Problem(answer.status_code, {})
        return answer.text

    def services(self) -> list[Json]:
        return list(self.call("GET", "/v1/services")["items"])

    def upgrade(self) -> Json:
        """The last upgrade; nothing when the program that runs does not know of any."""
        try:
            return self.call("GET", "/v1/upgrade")
        except Problem as problem:
            if problem.status in (404, 405):
                return {}
            raise

    def only_service(self) -> str:
        """The service that is meant when none is named. Raises CommandError(2)."""
        names = [str(service["name"]) for service in self.services()]
        if len(names) == 1:
            return names[0]
        which = ", ".join(names) or "none is configured"
        raise CommandError(f"which service? Name one of: {which}.", EXIT_USAGE)

    def under_way(self) -> str:
        """The id of the only switchover under way. Raises CommandError(2)."""
        ids = [
            str(service["switchover"]["id"])
            for service in self.services()
            if service.get("switchover")
        ]
        if len(ids) == 1:
            return ids[0]
        if not ids:
            raise CommandError("no switchover is under way; name an ID.", EXIT_USAGE)
        raise CommandError(f"which switchover? Name one of: {', '.join(ids)}.", EXIT_USAGE)

    def patiently(self, path: str, about: str) -> Json:
        """Get what may meet a control process that is just being restarted.

        Raises CommandError(3) when it has not come back in LOST_S seconds; `about` says what
        goes on meanwhile.
        """
        lost_at: float | None = None
        while True:
            began = time.monotonic()
            try:
                return self.call("GET", path)
            except Unreachable as error:
                lost_at = began if lost_at is None else lost_at
                if time.monotonic() - lost_at > LOST_S:
                    raise CommandError(f"{error}\n{about}", EXIT_UNREACHABLE) from None
                time.sleep(POLL_S)

    def follow(self, id: str) -> Iterator[tuple[Json, Json]]:
        """Yield (switchover, its service) until it has ended; the last one has its receipt."""
        about = f"The switchover {id} goes on; see: turnout wait {id}"
        while True:
            now = self.patiently(f"/v1/switchovers/{id}", about)
            service = self.patiently(f"/v1/services/{now['service']}", about)
            yield now, service
            if now["state"] in FINAL_STATES:
                return
            time.sleep(POLL_S)


def _why(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ReadTimeout):
        return f"it takes the call and does not answer in {ANSWER_TIMEOUT_S:g} s"
    return str(error) or type(error).__name__


def _reachable(host: str) -> str:
    """Where to reach a bind: every interface includes loopback."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def fail(text: str, code: int) -> NoReturn:
    raise CommandError(text, code)

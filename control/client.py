"""The control API as the command line calls it: one class, and errors that carry exit codes."""

import os
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is."""

    where: str
    """`host:port`, a URL, or `unix:/path`."""
    certificate: str = ""
    """The file of the certificate that it has, where the configuration is at hand: that very one
    is then trusted, by whatever name. Empty: one is trusted by its authority and its name."""


def control_endpoint(option: str | None, config: str | None) -> Endpoint:
    """Where the API is: the option's, `$TURNOUT_CONTROL`'s, the configuration's, the default.

    Raises CommandError(2) when the configuration has to be asked and does not say it clearly.
    """
    named = option or os.environ.get("TURNOUT_CONTROL")
    if named:
        return Endpoint(named)
    # Only here: what reads a configuration takes longer to import than a call takes.
    from turnout.config.loader import SettingsError, control_bind
    from turnout.config.origin import find_file

    file = find_file(config, os.environ)
    if file is None:
        return Endpoint(DEFAULT_CONTROL)
    try:
        bind, certificate = control_bind(file)
        return Endpoint(str(bind or DEFAULT_CONTROL), certificate or "")
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
    """The API at one address."""

    def __init__(self, endpoint: Endpoint | str) -> None:
        """Take the token and what TLS needs from the environment. Raises CommandError(2)."""
        if isinstance(endpoint, str):
            endpoint = Endpoint(endpoint)
        where = self.where = endpoint.where
        headers = {"Accept": "application/json"}
        if token := _token():
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
                scheme = "https" if endpoint.certificate else "http"
                base = f"{scheme}://{host}:{address.port}"
        secure = base.startswith("https://")
        self._http = httpx.Client(
            base_url=base,
            headers=headers,
            timeout=ANSWER_TIMEOUT_S,
            transport=transport,
            verify=_trust(endpoint.certificate) if secure else True,
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


def _token() -> str:
    """`$TURNOUT_TOKEN`, or what is in `$TURNOUT_TOKEN_FILE`. Raises CommandError(2)."""
    token = os.environ.get("TURNOUT_TOKEN", "")
    path = os.environ.get("TURNOUT_TOKEN_FILE", "")
    if token or not path:
        return token
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not ASCII"
        raise CommandError(f"TURNOUT_TOKEN_FILE {path} cannot be read: {why}", EXIT_USAGE) from None
    if not token:
        raise CommandError(f"TURNOUT_TOKEN_FILE {path} is empty", EXIT_USAGE)
    return token


def _trust(certificate: str) -> ssl.SSLContext:
    """Whom to take for the API: who has the configuration's own certificate, or else one of
    `$TURNOUT_CONTROL_CA`'s or the system's authorities with the right name.

    `$TURNOUT_CONTROL_CERT`, with `$TURNOUT_CONTROL_KEY` unless the key is in it too, is the
    client's own certificate (`control.tls.client_ca`). Raises CommandError(2).
    """
    names = ("TURNOUT_CONTROL_CA", "TURNOUT_CONTROL_CERT", "TURNOUT_CONTROL_KEY")
    authority, own, key = (os.environ.get(name) or None for name in names)
    try:
        context = ssl.create_default_context(cafile=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate and authority is None:
            context = _only(certificate)
        if own is not None:
            context.load_cert_chain(own, key, password=lambda: b"")
    except OSError as error:  # an ssl.SSLError is one too
        paths = " ".join(path for path in (authority or certificate, own, key) if path)
        what = "what TLS needs cannot be used"
        why = getattr(error, "reason", None) or error.strerror or error
        raise CommandError(f"{what}: {why} ({paths}; {', '.join(names)})", EXIT_USAGE) from None
    return context


def _only(certificate: str) -> ssl.SSLContext:
    """Trust who has this certificate's key, and nobody else: no authority, no other name."""
    from turnout.config.tls_files import first_certificate

    der = first_certificate(Path(certificate).read_bytes())
    if der is None:
        raise CommandError(f"control.tls.cert {certificate} holds no certificate", EXIT_USAGE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=der)
    return context


def _why(error: httpx.HTTPError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            f"its certificate is not trusted ({error}). Name its authority with "
            "TURNOUT_CONTROL_CA, or call it by a name that stands in the certificate"
        )
    if "SSL" in str(error):
        return f"TLS failed ({error}). Does it speak TLS, and does it ask for a certificate?"
    if isinstance(error, httpx.RemoteProtocolError):
        return f"{str(error).rstrip('.')}. Does it speak TLS? Then write https://"
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

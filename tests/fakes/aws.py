"""What fakes of AWS have in common: the Query protocol, its errors, and who calls."""

import re
from abc import abstractmethod
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from tests.fakes.base import FakeService, Fault

CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    # What the machine's owner has configured is none of a test's business.
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
"""Variables by which boto3 finds credentials and a region."""


class Invalid(Exception):
    """What is asked is refused: the error's code, its text and the status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code = code
        self.status = status
        super().__init__(message)


class QueryService(FakeService):
    """A fake that speaks the Query protocol: a form in, XML out."""

    namespace: str
    version: str
    signed_for: str
    """The service's name within a signature."""
    writing_actions: frozenset[str] = frozenset()
    denied: tuple[int, str, str] = (
        403, "ExpiredToken", "The security token included in the request is expired",
    )  # fmt: skip
    requests: int = 0

    @abstractmethod
    def carry_out(self, action: str, given: dict[str, Any]) -> Any:
        """Do it and return the result as plain data; None: it has none. Raises Invalid."""

    def writes(self, request: web.Request, body: bytes) -> bool:
        return dict(parse_qsl(body.decode())).get("Action") in self.writing_actions

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        self.requests += 1
        try:
            signed_by(request, self.signed_for)
            action, given = self._asked(body)
            self.journal[-1].note = action
            result = self.carry_out(action, given)
        except Invalid as error:
            return self._error(error.status, error.code, str(error))
        return web.Response(text=self.answered(action, result), content_type="text/xml")

    def answered(self, action: str, result: Any) -> str:
        inner = "" if result is None else element(f"{action}Result", result)
        return (
            f'<{action}Response xmlns="{self.namespace}">{inner}<ResponseMetadata>'
            f"<RequestId>request-{self.requests}</RequestId></ResponseMetadata>"
            f"</{action}Response>"
        )

    def error_text(self, status: int, code: str, message: str) -> str:
        kind = "Sender" if status < 500 else "Receiver"
        inner = element("Error", {"Type": kind, "Code": code, "Message": message})
        return (
            f'<ErrorResponse xmlns="{self.namespace}">{inner}'
            f"<RequestId>request-{self.requests}</RequestId></ErrorResponse>"
        )

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        match fault:
            case Fault.THROTTLED:
                return self._error(400, "Throttling", "Rate exceeded")
            case Fault.DENIED:
                return self._error(*self.denied)
        return self._error(503, "ServiceUnavailable", "The service is unavailable")

    def _asked(self, body: bytes) -> tuple[str, dict[str, Any]]:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        if (version := fields.pop("Version", None)) != self.version:
            raise Invalid("NoSuchVersion", f"The requested version ({version}) is not valid.")
        return fields.pop("Action", ""), nested(fields)

    def _error(self, status: int, code: str, message: str) -> web.Response:
        text = self.error_text(status, code, message)
        return web.Response(status=status, text=text, content_type="text/xml")


def signed_by(request: web.Request, service: str) -> None:
    """Raise Invalid when nobody says who calls, or for another service than this one."""
    match = re.match(
        r"AWS4-HMAC-SHA256 Credential=[^/]+/[0-9]{8}/[a-z0-9-]+/([a-z0-9-]+)/aws4_request, ",
        request.headers.get("Authorization", ""),
    )
    if match is None:
        raise Invalid("MissingAuthenticationToken", "Missing Authentication Token", 403)
    if match[1] != service:
        raise Invalid(
            "SignatureDoesNotMatch", f"Credential should be scoped to correct service: {service}"
        )


def nested(fields: dict[str, str]) -> dict[str, Any]:
    """`A.member.1.B=x` -> `{"A": [{"B": "x"}]}`."""
    root: dict[str, Any] = {}
    for name, value in fields.items():
        *path, last = name.split(".")
        here = root
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    plain = _lists(root)
    assert isinstance(plain, dict)
    return plain


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if set(value) == {"member"}:
        value = value["member"]
    if value and all(key.isdecimal() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(inner) for key, inner in value.items()}


def element(name: str, value: Any, item: str = "member") -> str:
    """Plain data as the XML that boto3 reads; a field that is None is left out."""
    if isinstance(value, dict):
        inner = "".join(element(key, one, item) for key, one in value.items() if one is not None)
    elif isinstance(value, (list, tuple)):
        inner = "".join(element(item, one, item) for one in value)
    elif isinstance(value, bool):
        inner = str(value).lower()
    else:
        inner = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<{name}>{inner}</{name}>"

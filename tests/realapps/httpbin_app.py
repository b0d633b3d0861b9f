"""httpbin as gunicorn loads it.

It repeats its request's fields in many answers. What a proxy adds is taken away before, so that
such answers can be compared byte by byte; but not where the query has `show_env`.

httpbin 0.10.0 is older than werkzeug 3, and later ones need an older greenlet than locust: two
differences are made up for.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import werkzeug.http
from flask import Response
from werkzeug.datastructures import Authorization

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

if not hasattr(werkzeug.http, "parse_authorization_header"):
    werkzeug.http.parse_authorization_header = Authorization.from_header  # type: ignore[attr-defined]

import httpbin  # type: ignore[import-untyped]

ADDED = ("VIA", "CONNECTION", "X_REQUEST_ID", "X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PROTO")  # fmt: skip


@httpbin.app.after_request  # type: ignore[untyped-decorator]
def bytes_only(response: Response) -> Response:
    """WSGI takes no bytearray, which `/bytes` answers with."""
    if response.is_sequence and not response.direct_passthrough:
        response.response = [bytes(piece) for piece in response.iter_encoded()]
    return response


def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    if "show_env" not in environ["QUERY_STRING"]:
        for name in ADDED:
            environ.pop(f"HTTP_{name}", None)
    answer: Iterable[bytes] = httpbin.app(environ, start_response)
    return answer

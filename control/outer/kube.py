"""The API of a Kubernetes cluster for what is in this room: lists, watches, patches.

In a pod the cluster and the credentials are the service account's, as the pod has them; else
the settings name them. Nothing is kept of a token: it is read anew for each call, as the
kubelet writes a new one before the old expires.
"""

import json
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turnout.config.outer.kubernetes import Cluster
from turnout.control.outer.rest import Rest
from turnout.control.outer.seams import Conflict, Context, Denied, NotDone, Refused

Object = Mapping[str, Any]
"""An object of the API, as JSON has it."""

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has its service account: `token`, `ca.crt`, `namespace`."""
PAGE: Final = 500
"""Objects of one answer to a list."""
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"


class Gone(Exception):
    """What a watch was to go on from is too old for the server: list anew."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A list, and the version from which a watch goes on."""

    items: tuple[Object, ...]
    version: str


class Kube:
    """One cluster's API. To be used in one event loop."""

    def __init__(self, cluster: Cluster, context: Context) -> None:
        """Raises Refused when nothing says which cluster or namespace."""
        here = cluster.endpoint is None
        self._timeout_s = context.timeout_s
        self._token = (
            Path(cluster.token_file) if cluster.token_file else ACCOUNT / "token" if here else None
        )
        self.namespace = cluster.namespace or _namespace()
        endpoint = cluster.endpoint or _own_cluster()
        ca = cluster.ca_file or (str(ACCOUNT / "ca.crt") if here else None)
        self._rest = Rest(
            endpoint,
            who=f"Kubernetes at {endpoint}",
            timeout_s=context.timeout_s,
            turn=context.turn,
            authorization=self._authorization,
            verify=_trusting(ca) if endpoint.startswith("https:") else True,
        )

    async def get(self, path: str) -> Object:
        """One object. Raises as `Rest.call`; rest.NotFound when there is none."""
        return _object(await self._rest.document("GET", path))

    async def list(self, path: str, labels: str) -> Listed:
        """All objects with these labels, as `key=value,…`. Raises as `Rest.call`.

        Nothing but a whole list is returned: one whose pages are too old by the next is NotDone.
        """
        items: list[Object] = []
        params = {"labelSelector": labels, "limit": str(PAGE)}
        while True:
            try:
                page = _object(await self._rest.document("GET", path, params=params))
            except Conflict as error:  # 410: the token of the next page has expired
                raise NotDone(str(error)) from error
            items += page.get("items") or ()
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return Listed(tuple(items), str(metadata.get("resourceVersion", "")))
            params = {**params, "continue": str(metadata["continue"])}

    async def watch(
        self, path: str, labels: str, version: str, watch_s: float
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Changes since `version`, as (ADDED, MODIFIED, DELETED or BOOKMARK, object).

        Ends after `watch_s`, or when the server likes. Raises Gone, and as `Rest.lines`.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": labels,
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(watch_s))),
        }
        lines = self._rest.lines(path, silence_s=watch_s + self._timeout_s, params=params)
        async with aclosing(lines):
            try:
                async for line in lines:
                    kind, found = _event(path, line)
                    yield kind, found
            except Conflict as error:
                raise Gone(str(error)) from error

    async def patch(self, path: str, body: Any, content_type: str) -> Object:
        """Change an object in one call; it as it is then. Raises as `Rest.call`."""
        content = json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        return _object(await self._rest.document("PATCH", path, content=content, headers=headers))

    async def close(self) -> None:
        await self._rest.close()

    async def _authorization(self) -> Mapping[str, str]:
        if self._token is None:
            return {}
        try:
            token = self._token.read_text().strip()
        except OSError as error:
            raise Denied(
                f"the token cannot be read: {error}. In a pod, see automountServiceAccountToken;"
                " elsewhere set token_file"
            ) from error
        return {"Authorization": f"Bearer {token}"}


def _own_cluster() -> str:
    """Raises Refused outside of a pod."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{word}", "") for word in ("HOST", "PORT"))
    if not host or not port:
        raise Refused(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, so this is no pod:"
            " set endpoint, and token_file and ca_file with it"
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _namespace() -> str:
    """Raises Refused outside of a pod."""
    try:
        return (ACCOUNT / "namespace").read_text().strip()
    except OSError as error:
        raise Refused(f"namespace is not set, and this is no pod: {error}") from error


def _trusting(ca: str | None) -> ssl.SSLContext:
    """Raises Refused when the file cannot be used."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"ca_file {ca} cannot be used: {error}") from error


def _object(document: Any) -> Object:
    if not isinstance(document, Mapping):
        raise NotDone(f"Kubernetes answered with {type(document).__name__} instead of an object")
    return document


def _event(path: str, line: bytes) -> tuple[str, Object]:
    """Raises Gone for the error of a watch that is too old, NotDone for any other."""
    try:
        event = json.loads(line)
        kind, found = str(event["type"]), _object(event["object"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotDone(f"Kubernetes: watch of {path}: {line[:200]!r} is no event") from error
    if kind == "ERROR":
        text = f"Kubernetes: watch of {path}: {found.get('code')} {found.get('message', '')}"
        if found.get("code") == 410:
            raise Gone(text)
        raise NotDone(text)
    return kind, found

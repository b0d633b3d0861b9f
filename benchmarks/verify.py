"""Before it is measured: does a proxy answer as the origin does, and does it pass on what varies?"""

import http.client

from benchmarks.load import BROWSER
from benchmarks.peers import Running
from benchmarks.processes import HarnessError
from benchmarks.workloads import Drive, Heads, Origin, Request, Workload


def check(running: Running, workload: Workload) -> None:
    """Raises HarnessError unless the answer is right and what varies reaches the origin."""
    if workload.drive in (Drive.WEBSOCKET, Drive.EVENT_STREAMS):
        return  # its clients check each message
    request = workload.request
    status, body = ask(running.port, request, request.path)
    if status != 200 or len(body) != request.answer_bytes:
        raise HarnessError(
            f"{running.contestant.name} answers {request.path} with {status} and {len(body)} "
            f"bytes, not 200 and {request.answer_bytes}"
        )
    if workload.origin is Origin.NGINX:
        for number in (1, 2):
            path = f"/echo/{number}?q={number}"
            _, body = ask(running.port, request, path, number)
            expected = f"{path}|session={number}|{number}"
            if body.decode(errors="replace") != expected:
                raise HarnessError(
                    f"{running.contestant.name} passed on {body[:200]!r}, not {expected!r}"
                )


def ask(port: int, request: Request, path: str, number: int = 0) -> tuple[int, bytes]:
    """One request by itself: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20.0)
    fields = {"Cookie": f"session={number}", "X-Trace": str(number)}
    if request.heads is Heads.BROWSER:
        fields |= BROWSER
    if request.hosts:
        fields["Host"] = f"h{number % request.hosts}.bench.example"
    body = b"x" * request.body_bytes or None
    try:
        connection.request(request.method, path, body, fields)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise HarnessError(f"no answer to {path}: {error!r}") from error
    finally:
        connection.close()

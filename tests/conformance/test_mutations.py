"""The rule without a verdict: whatever is sent, every reader must read what a server received
alike, and the next client must get its own answer.

Cases of the corpus, changed in a few places as a seed says. `TURNOUT_CONFORMANCE_MUTATIONS=100000`
goes on for long, `TURNOUT_CONFORMANCE_SEED` begins elsewhere; a failure names its seed and bytes.
"""

import os
import random

import pytest

from tests.conformance.answers import read_answers
from tests.conformance.case import RequestCase
from tests.conformance.corpus.every import request_cases
from tests.conformance.judge import as_sent, heard
from tests.conformance.runner import HIDDEN, Stand
from tests.harness import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.product]

COUNT = int(os.environ.get("TURNOUT_CONFORMANCE_MUTATIONS", "60"))
FIRST_SEED = int(os.environ.get("TURNOUT_CONFORMANCE_SEED", "1"))
PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b"\x0b", b":", b",", b";", b"0", b"5", b"\xff", b"_", b"-", b"x",
    b"\r\n ", b"\r\n\r\n", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Connection: X\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"HTTP/1.0", b"HTTP/1.1",
    b"chunked", b"Content-Length", b"Transfer-Encoding", b"Host", b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n",
)  # fmt: skip
CASES = [case for case in request_cases() if len(case.data) < 1000]


def mutated(seed: int) -> bytes:
    """The bytes of a case, one to four of its places changed."""
    rng = random.Random(seed)
    case: RequestCase = rng.choice(CASES)
    data = case.data
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((0, 0, 1, 1, 2, rng.randrange(40)))
        kind = rng.randrange(4)
        if kind == 0:
            data = data[:at] + data[at + length :]
        elif kind == 1:
            data = data[:at] + rng.choice(PIECES) + data[at:]
        elif kind == 2:
            data = data[:at] + rng.choice(PIECES) + data[at + length :]
        else:
            other = rng.choice(CASES).data
            start = rng.randrange(len(other))
            data = data[:at] + other[start : start + rng.randrange(40)] + data[at + length :]
    return data


@pytest.mark.parametrize("part", range(5))
async def test_whatever_is_sent_is_read_by_all_alike(stand: Stand, part: int) -> None:
    for seed in range(FIRST_SEED + part, FIRST_SEED + COUNT, 5):
        data = mutated(seed)
        try:
            await send_and_judge(stand, data + HIDDEN * (seed % 3 > 0))
        except BaseException as error:
            error.add_note(f"seed {seed}: {data!r}")
            raise


async def send_and_judge(stand: Stand, data: bytes) -> None:
    marks = stand.marks()
    async with await stand.at.client(limit_s=stand.limit_s) as client:
        await client.send(data)
        client.half_close()  # or it would wait for what the mutation took away
        raw, ended = await client.rest()
    await stand.fence()
    # What is still open to the server is idle, so all that was sent to it has come.
    sent, unfinished = [], []
    for number, received in stand.server.raw.items():
        one = heard(bytes(received[marks.get(number, 0) :]))
        sent += [as_sent(message) for message in one.messages]
        unfinished += [number] if one.unfinished else []
    await until(
        lambda: not stand.server.open.keys() & set(unfinished), "the end of an unfinished request"
    )
    assert [one.target for one in sent].count("/fence") == 1 + data.count(b"/fence")
    # The client's half was closed, so an end that is no error may be a reset; but what it was
    # told must be answers, no more than there were requests and a refusal.
    methods = [one.method for one in sent if one.target != "/fence"] + ["GET"]
    answers = read_answers(raw, methods, "closed" if ended == "closed" else "open")
    assert all(answer.status for answer in answers)

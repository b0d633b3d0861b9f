"""Whatever is missing: a web service or a command of one's own that moves the weights."""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from turnout.config.document import Place
from turnout.config.knobs import Count, Secret, Section, TrueOrFalse, knob, needed
from turnout.config.outer.common import KIND, OuterSection
from turnout.config.outer.programs import Argv, Variables
from turnout.config.outer.web import HeaderFields, HttpUrl
from turnout.config.places import FilePath

_OWN_FIELDS = frozenset(
    {
        "accept", "authorization", "connection", "content-length", "content-type", "host",
        "idempotency-key", "if-match", "transfer-encoding", "turnout-signature",
    }
)  # fmt: skip


class Split(Section):
    """What the weights of a system of one's own can be."""

    weighted: Annotated[bool, TrueOrFalse()] = knob(
        "true",
        "Whether it can split. `false`: it switches whole, and only steps to 0 and 100 move it.",
    )
    steps: Annotated[int, Count("2", "10000")] = knob(
        100,
        "In how many parts of the whole it counts: 100 has percentages, 256 is as fine as DNS "
        "weights. What lies between is rounded, and the share that is reached is shown.",
    )


class Webhook(OuterSection, Split):
    """A web service of one's own, that tells and takes weights as JSON at one URL."""

    module: ClassVar[str] = "webhook"

    kind: Literal["webhook"] = needed(KIND)
    url: Annotated[str, HttpUrl()] = needed(
        "GET tells the weights, PUT sets them, and GET of `/changes/ID` below it tells how far a "
        "change is. Redirects are not followed."
    )
    token: Annotated[str | None, Secret()] = knob(
        None, "Sent as `Authorization: Bearer …`. Best from the environment: `${X}`.", secret=True
    )
    token_file: Annotated[str | None, FilePath()] = knob(
        None, "A file that holds the token instead. It is read for each call, so it may be renewed."
    )
    secret: Annotated[str | None, Secret()] = knob(
        None,
        "Signs each call, with its time, by HMAC-SHA-256 in `Turnout-Signature`. Best from the "
        "environment.",
        secret=True,
    )
    headers: Annotated[dict[str, str], HeaderFields(_OWN_FIELDS)] = knob(
        {}, "Further header fields of each call, such as an API key.", secret=True
    )
    ca_file: Annotated[str | None, FilePath()] = knob(
        None, "Authorities in PEM that its certificate is of. Left out: those of the system."
    )

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        if self.token is not None and self.token_file is not None:
            yield ("token_file",), "token is given, too. Remove one of them"


class Command(OuterSection, Split):
    """A program of one's own, that tells and takes weights as JSON on its standard streams."""

    module: ClassVar[str] = "command"

    kind: Literal["command"] = needed(KIND)
    argv: Annotated[tuple[str, ...], Argv()] = needed(
        "The program and its arguments, without a shell; `read`, `set` or `poll ID` is put behind "
        "them. Each call is one process, which is killed with all that it started after "
        "`call_timeout`."
    )
    environment: Annotated[tuple[str, ...], Variables()] = knob(
        [],
        "Names of the variables of Turnout's own environment that it gets, beside PATH, HOME and "
        "LANG. Their values are shown nowhere.",
    )

"""Pure: what a reload may find changed, one part of the configuration after the other.

Each changes the configuration as `Stage.write_config` makes it; the next one begins with that
again, so that every other reload also takes a change back.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

Json = dict[str, Any]
Change = Callable[[Json], None]

SERVICE: Final = "shop"


def unchanged(configuration: Json) -> None:
    """As it was at the start."""


def _service(**more: Any) -> Change:
    def change(configuration: Json) -> None:
        configuration["services"][SERVICE].update(more)

    return change


def _top(**more: Any) -> Change:
    def change(configuration: Json) -> None:
        for key, value in more.items():
            known = configuration.get(key)
            configuration[key] = {**known, **value} if isinstance(known, dict) else value

    return change


def more_workers(configuration: Json) -> None:
    configuration["workers"] += 1


def fewer_servers(configuration: Json) -> None:
    """Of each upstream the first alone, where it has several: what is under way to the others
    finishes."""
    for upstream in configuration["services"][SERVICE]["upstreams"].values():
        upstream["servers"] = upstream["servers"][:1]


def another_listener(configuration: Json) -> None:
    configuration["listeners"].append({"bind": "127.0.0.2:0"})


def another_service(configuration: Json) -> None:
    shop = configuration["services"][SERVICE]
    configuration["services"]["other"] = {
        **shop, "match": {"hosts": ["other.example"]},
    }  # fmt: skip


CHANGES: Final[Sequence[Change]] = (
    more_workers,
    _top(pool={"idle_timeout": "10s"}),
    fewer_servers,
    _top(timeouts={"keep_alive": "60s", "first_byte": "50s"}),
    another_listener,
    _service(health={"path": "/healthz", "interval": "400ms", "timeout": "8s", "rise": 2, "fall": 4}),
    _top(limits={"services": 8, "headers": 120}),
    another_service,
    _service(drain={"timeout": "25s", "tunnels": "25s"}),
    _service(retries={"attempts": 3}),
    _top(log={"access": {"format": "json", "path": "/dev/null"}}),
    _service(hold={"requests": 500, "timeout": "20s"}),
    _service(switchover={"strategies": {"stepped": {"steps": [20, 100], "pause": "200ms"}}}),
)  # fmt: skip


def nth(number: int) -> Change:
    """The change of the `number`-th reload, counted from 0: every second one takes it back."""
    return unchanged if number % 2 else CHANGES[number // 2 % len(CHANGES)]

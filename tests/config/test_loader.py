"""From a file to a `Configuration`, or to errors that say what to write."""

from pathlib import Path

import pytest

from turnout.config import loader, origin
from turnout.config.document import SettingsError
from turnout.config.model import (
    AccessLog,
    Address,
    Configuration,
    ErrorLimit,
    LogFormat,
    Match,
    OnFailure,
    Scope,
    StatusRange,
    Strategy,
    Token,
    TryOut,
    Upstream,
    Weights,
)

ENVIRON = {
    "CI_TOKEN": "c1-s3cret-0123456789",
    "TRY_TOKEN": "try-s3cret",
    "XDG_RUNTIME_DIR": "/run/user/7",
}

WHOLE = """\
workers: 2
runtime_dir: /run/turnout
listeners:
  - bind: 0.0.0.0:8080
    health_path: /_turnout/health
control:
  bind: 127.0.0.1:9180
  tokens:
    - {name: ci, scope: write, token: "${CI_TOKEN}"}
state: {kind: sqlite, path: turnout.db}
log:
  access: {format: json, path: access.log}
timeouts: {header: 10s, body_idle: 30s, keep_alive: 75s, connect: 2s, first_byte: 0}
limits: {header_bytes: 32KiB, headers: 100, body_bytes: 0, connections: 10000}
trust_forwarded: [10.0.0.0/8, unix]
services:
  shop:
    match: {hosts: [shop.example, "*.shop.example"], path_prefix: /}
    initial: green
    upstreams:
      blue:  {servers: [127.0.0.1:9001, 127.0.0.1:9003], min_healthy: 1}
      green: {servers: [127.0.0.1:9002, "unix:run/shop.sock"]}
    health: {path: /healthz, interval: 1s, timeout: 2s, rise: 2, fall: 3, status: 200-399, body: ok}
    try_out: {header: X-Turnout-Upstream, token: "${TRY_TOKEN}"}
    drain: {timeout: 30s, tunnels: 0}
    retries: {attempts: 2, budget: 20%}
    hold: {requests: 1000, timeout: 30s}
    switchover:
      default: careful
      on_failure: stay
      strategies:
        careful: {steps: [1, 5, 25.5, 50, 100], pause: 60s}
"""

SMALL = """\
listeners:
  - bind: :8080
services:
  shop:
    upstreams:
      blue: {servers: [127.0.0.1:9001]}
      green: {servers: [127.0.0.1:9002]}
"""


def read(text: str) -> Configuration:
    return loader.load_text(text, file="turnout.yaml", base=Path("/etc/turnout"), environ=ENVIRON)


def refused(text: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        read(text)
    return str(raised.value).split("\n")


def with_line(text: str, start: str, line: str) -> tuple[str, int]:
    """`text` with the line that starts so replaced, and that line's number."""
    lines = text.split("\n")
    number = next(n for n, found in enumerate(lines) if found.strip().startswith(start))
    indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
    lines[number] = indent + line
    return "\n".join(lines), number + 1


def test_the_whole_surface_is_read() -> None:
    configuration = read(WHOLE)
    shop = configuration.services[0]
    assert (configuration.workers, configuration.runtime_dir) == (2, "/run/turnout")
    assert configuration.listeners[0].health_path == "/_turnout/health"
    assert configuration.control.tokens == (Token("ci", Scope.WRITE, "c1-s3cret-0123456789"),)
    assert configuration.trust_forwarded == ("10.0.0.0/8", "unix")
    assert configuration.timeouts.first_byte_s == 0
    assert configuration.limits.header_bytes == 32 * 1024
    assert shop.match == Match(("shop.example", "*.shop.example"), "/")
    assert shop.upstreams == (
        Upstream("blue", ("127.0.0.1:9001", "127.0.0.1:9003"), 1),
        Upstream("green", ("127.0.0.1:9002", "unix:/etc/turnout/run/shop.sock"), 1),
    )
    assert shop.try_out == TryOut("X-Turnout-Upstream", "try-s3cret")
    assert shop.health is not None
    assert shop.health.status == (StatusRange(200, 399),)
    assert shop.drain.tunnels_s == 0
    assert shop.switchover.on_failure is OnFailure.STAY
    assert shop.switchover.strategies == (
        Strategy("atomic", (10_000,), 0.0),
        Strategy("careful", (100, 500, 2_550, 5_000, 10_000), 60.0),
    )
    assert shop.initial_weights == Weights("blue", "green", 10_000)


def test_what_is_left_out_has_a_default() -> None:
    configuration = read(SMALL)
    shop = configuration.services[0]
    assert configuration.workers >= 1
    assert configuration.runtime_dir == "/run/user/7/turnout"
    assert configuration.control.bind == Address.parse("127.0.0.1:9180")
    assert configuration.access_log == AccessLog(
        LogFormat.JSON, "stdout", 8 * 1024 * 1024, 1024 * 1024
    )
    assert configuration.timeouts.header_s == 10
    assert shop.match == Match((), "/")
    assert shop.initial == "blue"
    assert shop.try_out is None
    assert shop.switchover.error_limit == ErrorLimit(0.1, 50, 10.0)
    assert shop.switchover.default == "atomic"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    file = tmp_path / "site" / "turnout.yaml"
    file.write_text(WHOLE)
    configuration = loader.load(file, ENVIRON)
    assert configuration.source == str(file)
    assert configuration.state.path == str(tmp_path / "site" / "turnout.db")
    assert configuration.access_log.path == str(tmp_path / "site" / "access.log")
    assert configuration.services[0].upstreams[1].servers[1] == (
        f"unix:{tmp_path}/site/run/shop.sock"
    )


@pytest.mark.parametrize("off", ["off", "false", "'off'"])
def test_off_is_a_word_and_false(off: str) -> None:
    text = SMALL.replace("bind: :8080", f"bind: :8080\n    health_path: {off}")
    for key in ("health", "try_out", "switchover"):
        value = f"{{error_limit: {off}}}" if key == "switchover" else off
        text += f"    {key}: {value}\n"
    configuration = read(f"{text}log: {{access: {{format: {off}}}, events: {off}}}\n")
    shop = configuration.services[0]
    assert (shop.health, shop.try_out, shop.switchover.error_limit) == (None, None, None)
    assert configuration.listeners[0].health_path is None
    assert configuration.access_log.format is LogFormat.OFF
    assert configuration.event_log.format is LogFormat.OFF


def test_a_section_whose_lines_are_commented_out_has_its_defaults() -> None:
    text = f"{SMALL}    health:\n      # path: /healthz\n    drain:\ntimeouts:\n"
    assert read(text) == read(SMALL)


def test_a_page_meant_for_it_must_answer_better_than_any_page() -> None:
    statuses = {}
    for name, value in {"none": "", "path": "{path: /up}", "both": "{status: 204}"}.items():
        health = read(f"{SMALL}    health: {value}\n").services[0].health
        assert health is not None
        statuses[name] = health.status
    assert statuses == {
        "none": (StatusRange(200, 499),),
        "path": (StatusRange(200, 399),),
        "both": (StatusRange(204, 204),),
    }


def test_the_interval_in_doubt_is_never_the_longer_one() -> None:
    health = read(f"{SMALL}    health: {{interval: 100ms}}\n").services[0].health
    assert health is not None
    assert (health.interval_s, health.doubt_interval_s) == (0.1, 0.1)


def test_a_variable_may_stand_for_a_number() -> None:
    text = f"workers: ${{WORKERS:-3}}\nlimits: {{headers: '${{H:-50}}'}}\n{SMALL}"
    configuration = read(text)
    assert (configuration.workers, configuration.limits.headers) == (3, 50)


# ---------------------------------------------------------------- each error

WRONG = [
    # (start of a line of WHOLE, that line instead, the error without place)
    ("workers", "workers: 0", "workers is 0; it is out of range; expected 1 to 256."),
    ("workers", "workers: two", "workers is two; expected a whole number: 1 to 256."),
    ("workers", "workers: 1.5", "workers is 1.5; expected a whole number: 1 to 256."),
    ("workers", "workers: true", "workers is true; expected a whole number: 1 to 256."),
    ("workers", "wokers: 2", "wokers is no key; did you mean workers?"),
    ("runtime_dir", "runtime_dir: ''",
     'runtime_dir is ""; expected a path.'),
    ("- bind", "- bind: 8080", "listeners.0.bind is 8080; it has no host. Write 127.0.0.1:8080."),
    ("- bind", "- bind: localhost:80",
     "listeners.0.bind is localhost:80; a name cannot be listened on, as it may mean several "
     "addresses. Write 127.0.0.1:80, [::1]:80 or :80."),
    ("- bind", "- bnd: :80",
     "listeners.0.bind is missing; it must be given: `address:port`, `[v6]:port`, `:port` "
     "(every interface) or `unix:/path`."),
    ("health_path", "health_path: up",
     "listeners.0.health_path is up; a path begins with a slash. Write /up."),
    ("bind: 127", "bind: 0.0.0.0:8080",
     "control.bind is 0.0.0.0:8080; listeners.0.bind is 0.0.0.0:8080, and they cannot both be "
     "had. Write another."),
    ("bind: 127", "bind: 127.0.0.1:8080",
     "control.bind is 127.0.0.1:8080; listeners.0.bind is 0.0.0.0:8080, and they cannot both be "
     "had. Write another."),
    ("- {name: ci", "- {name: ci, scope: admin, token: x}",
     "control.tokens.0.scope is admin; expected `read` or `write`."),
    ("- {name: ci", "- {name: ci, token: 'two words'}",
     "control.tokens.0.token is (hidden); expected 1 to 512 characters of visible ASCII, without "
     "quotes, backslashes, commas and semicolons. `openssl rand -hex 32` makes a good one."),
    ("- {name: ci", "- {name: ci, token: 12345}",
     "control.tokens.0.token is (hidden); expected a secret as text. Put it in quotes."),
    ("- {name: ci", "- some-token",
     "control.tokens.0 is (hidden); expected a mapping: keys with values, indented."),
    ("- {name: ci", "- {name: ci, token: '${NO_TOKEN}'}",
     'control.tokens.0.token is "${NO_TOKEN}"; the environment has no NO_TOKEN. Set it, or write '
     "${NO_TOKEN:-default}."),
    ("state", "state: {kind: mysql}", "state.kind is mysql; expected 'sqlite'."),
    ("access", "access: {format: xml}",
     "log.access.format is xml; expected `json` or `text` or `off`."),
    ("access", "acess: {format: text}", "log.acess is no key; did you mean access?"),
    ("timeouts", "timeouts: {header: 10}", "timeouts.header is 10; it needs a unit. Write 10s."),
    ("timeouts", "timeouts: {header: soon}",
     "timeouts.header is soon; expected a duration with a unit (ms, s, m, h, d), such as 30s."),
    ("timeouts", "timeouts: {header: true}",
     "timeouts.header is true; expected a duration: 10ms to 1h, or 0 for no limit."),
    ("timeouts", "timeouts: {header: 2h}",
     "timeouts.header is 2h; it is out of range; expected 10ms to 1h, or 0 for no limit."),
    ("timeouts", "timeouts: 30s",
     "timeouts is 30s; expected a mapping: keys with values, indented."),
    ("limits", "limits: {header_bytes: 32768}",
     "limits.header_bytes is 32768; it needs a unit. Write 32768B."),
    ("limits", "limits: {connections: 0}",
     "limits.connections is 0; it is out of range; expected 1 to 1000000."),
    ("limits", "limits: {services: 0}",
     "limits.services is 0; it is out of range; expected 1 to 65000."),
    ("limits", "limits: {headers: -1}",
     "limits.headers is -1; expected a whole number: 10 to 10000, or 0 for no limit."),
    ("trust", "trust_forwarded: [10.0.0.1/8]",
     "trust_forwarded.0 is 10.0.0.1/8; it has bits set beyond its length. Write 10.0.0.0/8."),
    ("trust", "trust_forwarded: [example]",
     "trust_forwarded.0 is example; expected a network such as `10.0.0.0/8`, an IP address, or "
     "`unix`."),
    ("trust", "trust_forwarded: 10.0.0.0/8",
     "trust_forwarded is 10.0.0.0/8; expected a list. Write [ and ] around it."),
    ("shop:", "sh op:",
     "services.sh op is no name; a name is 1 to 63 letters, digits, dots, dashes or underscores "
     "and begins with a letter or digit, as it stands in URLs and metrics."),
    ("match", "match: {hosts: ['shop.example:80']}",
     'services.shop.match.hosts.0 is "shop.example:80"; hosts match without port. '
     "Write shop.example."),
    ("match", "match: {hosts: ['*']}",
     'services.shop.match.hosts.0 is "*"; every host is matched when `hosts` is left out. '
     "Remove it."),
    ("match", "match: {hosts: [a.*.b]}",
     "services.shop.match.hosts.0 is a.*.b; `*.` may stand at the beginning only, for one label."),
    ("match", "match: {hosts: [a, A.]}",
     "services.shop.match.hosts.1 is A.; it is listed twice. Remove one."),
    ("match", "match: {path_prefix: shop}",
     "services.shop.match.path_prefix is shop; a path begins with a slash. Write /shop."),
    ("match", "match: {path_prefix: /a/../b}",
     "services.shop.match.path_prefix is /a/../b; a prefix has no query, no empty part and no "
     "`.` or `..`."),
    ("initial", "initial: red", "services.shop.initial is red; expected one of blue, green."),
    ("green:", "green: {servers: []}",
     "services.shop.upstreams.green.servers is an empty list; it is empty, but all traffic begins "
     "here. Write an address."),
    ("green:", "green: {servers: [127.0.0.1:9001]}",
     "services.shop.upstreams.green.servers.0 is 127.0.0.1:9001; "
     "services.shop.upstreams.blue.servers.0 is the same server. A server belongs to one "
     "upstream, once. Remove one."),
    ("green:", "green: {servers: [127.0.0.1:8080]}",
     "services.shop.upstreams.green.servers.0 is 127.0.0.1:8080; Turnout itself listens there "
     "(listeners.0.bind). Write another."),
    ("green:", "green: {servers: [a:1], min_healthy: 2}",
     "services.shop.upstreams.green.min_healthy is 2; it has 1 servers only, so it could never "
     "be healthy. Write 1 or less."),
    ("green:", "green: {servers: 127.0.0.1:9002}",
     "services.shop.upstreams.green.servers is 127.0.0.1:9002; expected a list. "
     "Write [ and ] around it."),
    ("green:", "green: {servers: ['http://a:1']}",
     'services.shop.upstreams.green.servers.0 is "http://a:1"; expected an address, not a URL: '
     "host:port, such as 10.0.0.7:9001."),
    ("health:", "health: {interval: 0}",
     "services.shop.health.interval is 0; it is out of range; expected 100ms to 1h."),
    ("health:", "health: {status: 2xx}",
     "services.shop.health.status is 2xx; expected a status from 100 to 599, a range "
     "(`200-399`), or several with commas."),
    ("health:", "health: {status: 399-200}",
     "services.shop.health.status is 399-200; the range is upside down. Write 200-399."),
    ("try_out", "try_out: {header: Host, token: x}",
     "services.shop.try_out.header is Host; this field has a meaning of its own. "
     "Write X-Turnout-Upstream."),
    ("try_out", "try_out: {header: X-Y}",
     "services.shop.try_out.token is missing; it must be given: 1 to 512 characters of visible "
     "ASCII but `\"`, `\\`, `,` and `;`."),
    ("drain", "drain: {timeout: 30}",
     "services.shop.drain.timeout is 30; it needs a unit. Write 30s."),
    ("drain", "drian: {timeout: 30s}", "services.shop.drian is no key; did you mean drain?"),
    ("retries", "retries: {budget: 20}",
     "services.shop.retries.budget is 20; it needs a percent sign. Write 20%."),
    ("retries", "retries: {xyz: 1}",
     "services.shop.retries.xyz is no key; expected one of attempts, budget, budget_window, "
     "budget_floor."),
    ("on_failure", "on_failure: panic",
     "services.shop.switchover.on_failure is panic; expected `rollback` or `stay`."),
    ("default", "default: slow",
     "services.shop.switchover.default is slow; expected one of atomic, careful."),
    ("careful", "careful: {steps: [50, 5, 100]}",
     "services.shop.switchover.strategies.careful.steps is a list; 5 does not rise after 50; "
     "expected rising percentages, such as [10, 50, 100]."),
    ("careful", "careful: {steps: [0, 100]}",
     "services.shop.switchover.strategies.careful.steps is a list; a step of 0 moves nothing. "
     "Begin with more than 0."),
    ("careful", "careful: {steps: [10, 50]}",
     "services.shop.switchover.strategies.careful.steps is a list; the last step is 50; "
     "expected 100 at the end."),
    ("careful", "careful: {steps: [10, 100.5]}",
     "services.shop.switchover.strategies.careful.steps is a list; weight 100.5 is out of range; "
     "expected 0 to 100."),
    ("careful", "careful: {steps: []}",
     "services.shop.switchover.strategies.careful.steps is an empty list; expected a list of "
     "percentages. Write [10, 50, 100]."),
    ("careful", "careful: {steps: [10, 100], approval: maybe}",
     "services.shop.switchover.strategies.careful.approval is maybe; expected `true` or `false`."),
    ("careful", "careful: {steps: [10, 100], approval: true, pause: 0}",
     "services.shop.switchover.strategies.careful.pause is 0; with approval: true a step is held "
     "until somebody approves. Remove one of the two."),
    ("careful", "careful: {steps: [100], approval: true}",
     "services.shop.switchover.strategies.careful.approval is true; it has one step, and nothing "
     "is waited for behind the last one. Write another step before it, such as steps: [1, 100]."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "line", "message"),
    WRONG,
    ids=[line for _, line, _ in WRONG],
)
def test_an_error_says_file_line_key_value_and_what_to_write(
    start: str, line: str, message: str
) -> None:
    text, number = with_line(WHOLE, start, line)
    place = f"turnout.yaml:{number}: "
    assert f"{place}{message}" in refused(text)


def test_one_upstream_alone_is_an_error() -> None:
    text, number = with_line(WHOLE, "green:", "# nothing yet")
    assert refused(text) == [
        f"turnout.yaml:{number - 2}: services.shop.upstreams is a mapping; expected exactly two "
        f"upstreams, found 1 (blue)."
    ]


def test_three_upstreams_are_an_error() -> None:
    text, number = with_line(WHOLE, "green:", "{green: {servers: []}, red: {servers: []}}")
    text = text.replace("      blue:  {servers", "      blue: {servers").replace(
        "{green: {servers: []}, red: {servers: []}}",
        "green: {servers: ['a:1']}\n      red: {servers: ['a:2']}",
    )
    assert refused(text) == [
        f"turnout.yaml:{number - 2}: services.shop.upstreams is a mapping; expected exactly two "
        f"upstreams, found 3 (blue, green, red)."
    ]


def test_an_upstream_without_traffic_may_have_no_server_yet() -> None:
    text, _ = with_line(WHOLE, "blue:", "blue: {servers: []}")
    assert read(text).services[0].upstreams[0] == Upstream("blue", (), 1)


def test_a_control_api_that_others_can_reach_needs_a_token() -> None:
    message = (
        "other machines can reach it, so it needs control.tokens. Bind to 127.0.0.1, or "
        'write tokens: [{name: ops, scope: write, token: "${TURNOUT_TOKEN}"}]'
    )
    for bind in (":9180", "0.0.0.0:9180", "10.0.0.1:9180", "'[::]:9180'"):
        found = bind.replace("'", '"')
        assert refused(f"control:\n  bind: {bind}\n{SMALL}") == [
            f"turnout.yaml:2: control.bind is {found}; {message}."
        ]


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "'[::1]:1'", "unix:/run/control.sock"])
def test_a_control_api_that_only_this_machine_can_reach_needs_none(bind: str) -> None:
    assert read(f"control: {{bind: {bind}}}\n{SMALL}").control.tokens == ()


def test_a_control_api_has_a_port_that_can_be_known() -> None:
    assert refused(f"control:\n  bind: 127.0.0.1:0\n{SMALL}") == [
        "turnout.yaml:2: control.bind is 127.0.0.1:0; the command line could not find it. "
        "Write a port, such as 9180."
    ]


def test_tokens_and_their_names_are_each_one_of_a_kind() -> None:
    tokens = "[{name: a, token: t1-0123456789-abc}, {name: a, token: t2-0123456789-abc}, {name: b, token: t1-0123456789-abc}]"
    assert refused(f"control: {{tokens: {tokens}}}\n{SMALL}") == [
        "turnout.yaml:1: control.tokens.1.name is a; control.tokens.0 has the same name. "
        "Write another.",
        "turnout.yaml:1: control.tokens.2.token is (hidden); control.tokens.0 has the same token. "
        "Write another.",
    ]


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (":80", ":80", True),
        (":80", "10.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("'[::]:80'", "'[::1]:80'", True),
        ("unix:/a", "unix:/a", True),
        ("0.0.0.0:80", "'[::1]:80'", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("unix:/a", "unix:/b", False),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("127.0.0.1:0", ":0", False),
    ],
)
def test_two_listeners_on_one_socket_are_an_error(one: str, other: str, conflict: bool) -> None:
    text = SMALL.replace("  - bind: :8080", f"  - bind: {one}\n  - bind: {other}")
    if conflict:
        assert [error[:15] for error in refused(text)] == ["turnout.yaml:3:"]
    else:
        assert len(read(text).listeners) == 2


def test_two_services_that_match_the_same_are_an_error() -> None:
    other = "    match: {hosts: [a.example, b.example], path_prefix: /x/}\n"
    services = SMALL.split("services:\n")[1]
    again = services.replace("shop", "blog").replace("900", "901").replace(
        "    upstreams", "    match: {hosts: [B.example], path_prefix: /x}\n    upstreams"
    )  # fmt: skip
    text = SMALL.replace("    upstreams", f"{other}    upstreams") + again
    assert refused(text) == [
        "turnout.yaml:10: services.blog.match is a mapping; services.shop matches b.example with "
        "path prefix /x too. Write another host or path_prefix."
    ]
    apart = text.replace("path_prefix: /x}", "path_prefix: /y}")
    assert [service.match for service in read(apart).services] == [
        Match(("a.example", "b.example"), "/x"),
        Match(("b.example",), "/y"),
    ]


def test_a_service_that_matches_everything_may_stand_beside_one_that_does_not() -> None:
    services = SMALL.split("services:\n")[1]
    again = services.replace("shop", "blog").replace("900", "901")
    assert refused(SMALL + again) == [
        "turnout.yaml:8: services.blog.match is not given; services.shop matches every host with "
        "path prefix / too. Write another host or path_prefix."
    ]


@pytest.mark.parametrize("name", ["atomic", "weights"])
def test_a_strategy_cannot_have_a_name_with_a_meaning_of_its_own(name: str) -> None:
    text = f"{SMALL}    switchover: {{strategies: {{{name}: {{steps: [100]}}}}}}\n"
    assert refused(text) == [
        f"turnout.yaml:8: services.shop.switchover.strategies.{name} is a mapping; {name} has a "
        f"meaning of its own. Write another name."
    ]


@pytest.mark.parametrize("text", ["true", '"${APPROVAL:-true}"'])
def test_a_strategy_may_wait_for_a_person_at_each_step(text: str) -> None:
    strategy = f"{{steps: [10, 100], approval: {text}}}"
    configuration = read(f"{SMALL}    switchover: {{strategies: {{careful: {strategy}}}}}\n")
    found = configuration.services[0].switchover.strategy("careful")
    assert found == Strategy("careful", (1_000, 10_000), float("inf"))


def test_the_limits_on_services_and_servers_hold() -> None:
    servers = ", ".join(f"127.0.0.1:{port}" for port in range(1, 5))
    text = f"limits: {{services: 1, servers: 3}}\n{SMALL.replace('127.0.0.1:9002', servers)}"
    text += SMALL.split("services:\n")[1].replace("shop", "blog").replace("    up", "    match: "
        "{hosts: [blog]}\n    up").replace("900", "901")  # fmt: skip
    assert refused(text) == [
        "turnout.yaml:4: services is a mapping; there are more than limits.services (1).",
        "turnout.yaml:8: services.shop.upstreams.green.servers is a list; there are more than "
        "limits.servers (3).",
    ]


def test_all_problems_are_told_at_once_in_the_order_of_lines() -> None:
    text, _ = with_line(WHOLE, "workers", "workers: 0")
    text, _ = with_line(text, "drain", "drain: {timeout: 30, tunnels: 1}")
    text, _ = with_line(text, "limits", "limit: {}")
    assert [error.split(" ")[1] for error in refused(text)] == [
        "workers", "limit", "services.shop.drain.timeout", "services.shop.drain.tunnels",
    ]  # fmt: skip


def test_no_error_prints_a_secret() -> None:
    for written, instead in {
        'token: "${CI_TOKEN}"': "token: 'my s3cret'",
        '{name: ci, scope: write, token: "${CI_TOKEN}"}': "my-s3cret",
        '{header: X-Turnout-Upstream, token: "${TRY_TOKEN}"}': "green s3cret",
        "header: X-Turnout-Upstream": "header: '${TRY_TOKEN} x'",
        "workers: 2": "workers: ${CI_TOKEN}",
        "0.0.0.0:8080": "${CI_TOKEN}:99999",
        "bind: 127.0.0.1:9180": "bind: ${CI_TOKEN}",
        "scope: write": "password: my-s3cret",
        "initial: green": "initial: ${CI_TOKEN}",
    }.items():
        assert written in WHOLE
        assert "s3cret" not in "\n".join(refused(WHOLE.replace(written, instead)))


def test_no_value_prints_a_secret_when_it_is_logged() -> None:
    assert "s3cret" not in repr(read(WHOLE))


# ---------------------------------------------------------------- files and options


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    gone, binary = tmp_path / "gone.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"a: 1\nb: \xff\n")
    found = {}
    for path in (gone, binary, tmp_path):
        with pytest.raises(SettingsError) as raised:
            loader.load(path, {})
        found[path] = str(raised.value)
    assert found == {
        gone: f"{gone}: cannot be read: No such file or directory.",
        binary: f"{binary}:2: it is not UTF-8.",
        tmp_path: f"{tmp_path}: cannot be read: Is a directory.",
    }


def test_a_file_is_found_by_option_then_variable_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert origin.find_file(None, {}) is None
    (tmp_path / "turnout.yaml").touch()
    assert origin.find_file(None, {}) == Path("turnout.yaml")
    assert origin.find_file(None, {"TURNOUT_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert origin.find_file("a.yaml", {"TURNOUT_CONFIG": "b.yaml"}) == Path("a.yaml")


def test_options_alone_make_a_configuration() -> None:
    text = origin.inline(
        [":8080"], ["127.0.0.1:9001"], ["127.0.0.1:9002", "unix:/g"],
        health_path="/up", control="127.0.0.1:9999", state="/tmp/s.db", runtime_dir="/run/t",
        workers=3,
    )  # fmt: skip
    configuration = loader.load_text(text, environ={})
    service = configuration.services[0]
    assert (configuration.source, configuration.workers) == ("", 3)
    assert (configuration.runtime_dir, configuration.state.path) == ("/run/t", "/tmp/s.db")
    assert str(configuration.control.bind) == "127.0.0.1:9999"
    assert [str(listener.bind) for listener in configuration.listeners] == [":8080"]
    assert service.name == "default"
    assert service.upstreams == (
        Upstream("blue", ("127.0.0.1:9001",), 1),
        Upstream("green", ("127.0.0.1:9002", "unix:/g"), 1),
    )
    assert service.health is not None
    assert service.health.path == "/up"


def test_a_wrong_option_is_called_by_its_name() -> None:
    text = origin.inline(["8080"], ["${HOME}"], ["green"])
    with pytest.raises(SettingsError) as raised:
        loader.load_text(text, environ={"HOME": "/root"})
    assert str(raised.value).split("\n") == [
        'options: --listen is "8080"; it has no host. Write 127.0.0.1:8080.',
        'options: --blue is "$${HOME}"; it has no port. Write ${HOME}:80, or the port that it '
        "listens on.",
        'options: --green is "green"; it has no port. Write green:80, or the port that it '
        "listens on.",
    ]


def test_the_runtime_directory_follows_the_environment() -> None:
    assert loader.default_runtime_dir(
        {"RUNTIME_DIRECTORY": "/run/turnout:/run/x", "XDG_RUNTIME_DIR": "/run/user/7"}
    ) == "/run/turnout"  # fmt: skip
    assert loader.default_runtime_dir({"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7/turnout"
    assert loader.default_runtime_dir({}).startswith(("/dev/shm/turnout-", "/"))


def test_workers_follow_the_quota_of_the_container(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    cores = loader.default_workers(tmp_path / "gone")
    found = []
    for text in ("max 100000\n", "50000 100000\n", "100000 100000\n", "9900000 100000\n"):
        quota.write_text(text)
        found.append(loader.default_workers(quota))
    assert found == [cores, 1, 1, cores]


def test_what_needs_a_restart_is_told() -> None:
    before = read(WHOLE)
    assert loader.needs_restart(before, before) == ()
    changed = WHOLE.replace("/run/turnout", "/run/other").replace("127.0.0.1:9180", "127.0.0.1:1")
    changed = changed.replace("10s, body_idle", "11s, body_idle")
    assert loader.needs_restart(before, read(changed)) == ("runtime_dir", "control.bind")


def test_two_services_that_would_move_the_same_are_refused() -> None:
    text = """
listeners: [{bind: ":8080"}]
services:
  shop: &shop
    match: {hosts: [shop.example]}
    upstreams: {blue: {servers: ["a:1"]}, green: {servers: ["a:2"]}}
    outer: {kind: webhook, url: "https://edge.example/weights", order: inner_first}
  bank:
    <<: *shop
    match: {hosts: [bank.example]}
    outer: {kind: webhook, url: "https://edge.example/weights"}
"""
    with pytest.raises(SettingsError, match=r"services\.shop\.outer moves the same"):
        loader.load_text(text, environ={})
    loader.load_text(text.replace('weights"}', 'bank"}'), environ={})

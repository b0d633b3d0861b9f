"""Files of tokens, and who may use the API's socket: what is read, and what is said instead."""

import os
from pathlib import Path
from typing import Final

import pytest

from turnout.config.loader import SettingsError, load_text
from turnout.config.model import ControlPlane

TOKEN: Final = "of-a-file-00112233445566778899"
REST: Final = """
listeners: [{bind: "127.0.0.1:8080"}]
services: {shop: {upstreams: {blue: {servers: ["127.0.0.1:1"]}, green: {servers: []}}}}
"""


def read(control: str, base: Path, *, lenient: bool = False) -> ControlPlane:
    text = f"control: {{{control}}}{REST}"
    return load_text(text, file="turnout.yaml", base=base, environ={}, lenient=lenient).control


def refused(control: str, base: Path) -> str:
    with pytest.raises(SettingsError) as error:
        read(control, base)
    return str(error.value)


def of_file(name: str) -> str:
    return f"tokens: [{{name: ci, scope: write, token_file: {name}}}]"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_tokens_file_holds_the_token_in_its_only_line(tmp_path: Path, end: str) -> None:
    (tmp_path / "ci").write_bytes(f"{TOKEN}{end}".encode())
    (token,) = read(of_file("./ci"), tmp_path).tokens
    assert (token.token, token.file, token.file_problem) == (TOKEN, str(tmp_path / "ci"), "")
    assert TOKEN not in repr(token)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "./ci does not exist. Write the token into it."),
        (b"", "./ci is empty; expected the token in its only line."),
        (b" \n", "./ci is empty; expected the token in its only line."),
        (
            f"{TOKEN}\n{TOKEN}\n".encode(),
            "./ci has several lines; expected the token alone in one.",
        ),
        (f"{TOKEN}\n\n".encode(), "./ci has several lines; expected the token alone in one."),
        (b"short\n", "what is in ./ci is no token: it is short"),
        (b"two words of more than that\n", "what is in ./ci is no token: expected 1 to 512"),
        ("schlüssel-0123456789".encode(), "what is in ./ci is no token: it is not ASCII."),
        (b"x" * 5000, "./ci has more than 4096 bytes; expected one line."),
    ],
)
def test_what_is_wrong_with_a_tokens_file_is_said_without_it(
    tmp_path: Path, content: bytes | None, what: str
) -> None:
    if content is not None:
        (tmp_path / "ci").write_bytes(content)
    said = refused(of_file("./ci"), tmp_path)
    start = "turnout.yaml:1: control.tokens.0.token_file is (hidden); "
    assert said.startswith(start + what.replace("./ci", str(tmp_path / "ci")))
    for word in (content or b"").decode().split():
        assert word not in said.removeprefix(start).replace(str(tmp_path), "") or len(word) < 6


def test_a_pipe_or_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for name in ("./pipe", "./directory"):
        assert "is no regular file. Write the token into one." in refused(of_file(name), tmp_path)
    assert "cannot be read: it is no path." in refused(of_file('"a/\\0"'), tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_names_the_user(tmp_path: Path) -> None:
    (tmp_path / "ci").write_text(TOKEN)
    (tmp_path / "ci").chmod(0)
    assert f"may not be read by user {os.geteuid()}" in refused(of_file("./ci"), tmp_path)


def test_what_may_be_a_token_in_the_place_of_a_path_is_not_shown(tmp_path: Path) -> None:
    for written in ("s3cr3t-of-somebody-0123", "s3cr3t/of+somebody/0123", "/s3cr3t-of-somebody"):
        assert "s3cr3t" not in refused(of_file(written), tmp_path)
    assert "/nowhere-there/ci" not in refused(of_file("/nowhere-there/ci"), tmp_path)


def test_a_text_that_was_in_force_is_read_without_its_files(tmp_path: Path) -> None:
    """Each time another token, which nobody knows."""
    found = [read(of_file("./ci"), tmp_path, lenient=True).tokens[0] for _ in range(2)]
    assert found[0].token != found[1].token
    assert all(len(token.token) == 64 for token in found)
    assert found[0].file_problem == f"{tmp_path / 'ci'} does not exist. Write the token into it"


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (
            "tokens: [{name: ci}]",
            'it has no token. Write token: "${TURNOUT_TOKEN}", or token_file.',
        ),
        (
            f"tokens: [{{name: ci, token: {TOKEN}, token_file: ./ci}}]",
            "control.tokens.0.token_file is (hidden); it has a token too. Remove one of the two.",
        ),
        (
            f"tokens: [{{name: a, token: {TOKEN}}}, {{name: b, token_file: ./ci}}]",
            "control.tokens.1.token_file is (hidden); control.tokens.0 has the same token. "
            "Write another.",
        ),
        ("tokens: [{name: ci, token: short}]", "it is short, and who guesses it may move"),
        ("tokens: [{name: ci, scope: literally-a-long-secret}]", "scope is (hidden); expected"),
        ("tokens: [{name: ci, scope: admin}]", "scope is admin; expected `read` or `write`."),
        ("hosts: ['*']", "Write the names, or control.tokens."),
        ("hosts: ['a.example:9180']", "hosts match without port. Write a.example."),
        ("hosts: ['a b']", "expected a host name in ASCII"),
        ("bind: unix:/run/t.sock, tls: {cert: ./ci, key: ./ci}", "it holds no certificate in PEM"),
        ("socket_mode: '0660'", "control.bind is 127.0.0.1:9180, no file. Remove it."),
        ("bind: unix:/run/t.sock, socket_mode: '0666'", "everybody on this machine could connect"),
        ("bind: unix:/run/t.sock, socket_mode: 0o660", 'Write "0660" for a group.'),
        ("bind: unix:/run/t.sock, socket_mode: '0440'", 'Write "0660" for a group.'),
        ("bind: unix:/run/t.sock, socket_mode: '4660'", 'Write "0660" for a group.'),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, control: str, said: str) -> None:
    (tmp_path / "ci").write_text(TOKEN)
    assert said in refused(control, tmp_path)


@pytest.mark.parametrize(
    ("written", "mode"),
    [("'0660'", 0o660), ("0660", 0o660), ("660", 0o660), ("'0600'", 0o600), ("0770", 0o770)],
)
def test_a_mode_is_octal_as_everywhere(tmp_path: Path, written: str, mode: int) -> None:
    assert read(f"bind: unix:/t.sock, socket_mode: {written}", tmp_path).socket_mode == mode


def test_everybody_may_connect_where_there_are_tokens(tmp_path: Path) -> None:
    tokens = f"tokens: [{{name: ci, token: {TOKEN}}}]"
    assert read(f"bind: unix:/t.sock, socket_mode: '0666', {tokens}", tmp_path).socket_mode == 0o666
    assert read(f"hosts: ['*'], {tokens}", tmp_path).hosts == ("*",)

"""YAML as plain data: lines, variables, and what is refused before any key is looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.document import Document, SettingsError, expand, read_document

ENVIRON = {"PORT": "9001", "EMPTY": "", "NASTY": "x\ntokens: []", "DOLLAR": "${PORT}"}


def read(text: str) -> Document:
    return read_document(text, file="turnout.yaml", environ=ENVIRON)


def refused(text: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        read(text)
    return str(raised.value).split("\n")


def test_values_are_those_of_yaml_1_2() -> None:
    document = read("{a: off, b: yes, c: 010, d: 0x10, e: 1.5, f: true, g: ~, h: '8', i: 1e3}")
    assert document.data == {
        "a": "off", "b": "yes", "c": 10, "d": 16, "e": 1.5, "f": True, "g": None, "h": "8",
        "i": 1000.0,
    }  # fmt: skip


def test_json_is_yaml() -> None:
    assert read('{"a": ["b", 1, null, true], "c": "\\u00e9"}').data == {
        "a": ["b", 1, None, True],
        "c": "é",
    }


def test_each_value_knows_the_line_of_its_key() -> None:
    marks = read("a:\n  b:\n    - 1\n    - c: x\n  d:\n    long\n").marks
    lines = {place: mark.line for place, mark in marks.items()}
    assert lines == {
        (): 1, ("a",): 1, ("a", "b"): 2, ("a", "b", 0): 3, ("a", "b", 1): 4,
        ("a", "b", 1, "c"): 4, ("a", "d"): 5,
    }  # fmt: skip


def test_a_value_is_shown_as_it_was_written() -> None:
    marks = read("{a: 30, b: '30', c: '${PORT}', d: [], e: {}, f: , g: [1]}").marks
    found = {place[0]: mark.found for place, mark in marks.items() if len(place) == 1}
    assert found == {
        "a": "30", "b": '"30"', "c": '"${PORT}"', "d": "an empty list", "e": "a mapping",
        "f": "empty", "g": "a list",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${PORT}", "9001"),
        ("127.0.0.1:${PORT}/${PORT}", "127.0.0.1:9001/9001"),
        ("${GONE:-80}", "80"),
        ("${EMPTY:-80}", "80"),
        ("${GONE:-}", ""),
        ("${EMPTY}", ""),
        ("${PORT:-80}", "9001"),
        ("${GONE:-a:-b}", "a:-b"),
        ("$${PORT}", "${PORT}"),
        ("$PORT $ {PORT} 5$", "$PORT $ {PORT} 5$"),
        ("${DOLLAR}", "${PORT}"),
    ],
)
def test_a_variable_is_filled_in_once(text: str, expanded: str) -> None:
    assert expand(text, ENVIRON) == expanded


@pytest.mark.parametrize("text", ["${}", "${PORT", "${1}", "${A B}", "${X:?no}", "${X:-${PORT}}"])
def test_what_looks_like_a_variable_and_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"write \$\$\{ for the two characters themselves"):
        expand(text, ENVIRON)


@given(st.text())
def test_a_text_without_a_dollar_is_left_as_it_is(text: str) -> None:
    plain = text.replace("$", "")
    assert expand(plain, {}) == plain


@given(st.text(alphabet="${}:-AB"))
def test_an_escaped_text_comes_out_as_it_was(text: str) -> None:
    # "$" before an escape would make a longer run of dollars mean something else.
    once = text.replace("$$", "$")
    if "$$" not in once:
        assert expand(once.replace("${", "$${"), {}) == once


def test_a_variable_cannot_add_a_key() -> None:
    assert read("a: ${NASTY}\nb: 1").data == {"a": "x\ntokens: []", "b": 1}


def test_a_variable_that_is_not_set_is_an_error_at_its_line() -> None:
    assert refused("a: 1\nb:\n  c: ${GONE}\n  d: '${LOST}'") == [
        "turnout.yaml:3: b.c is ${GONE}; the environment has no GONE. "
        "Set it, or write ${GONE:-default}.",
        'turnout.yaml:4: b.d is "${LOST}"; the environment has no LOST. '
        "Set it, or write ${LOST:-default}.",
    ]


def test_two_equal_keys_are_an_error() -> None:
    assert refused("a:\n  b: 1\n  c: 2\n  b: 3\n  'b': 4") == [
        "turnout.yaml:4: a.b is on line 2 too; remove one.",
        "turnout.yaml:5: a.b is on line 2 too; remove one.",
    ]


def test_an_alias_stands_for_its_value_and_a_merge_fills_what_is_missing() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [{c: 4}, *x], a: 5}\nw: *x"
    assert read(text).data == {
        "x": {"a": 1, "b": 2},
        "y": {"a": 1, "b": 3},
        "z": {"a": 5, "b": 2, "c": 4},
        "w": {"a": 1, "b": 2},
    }


def test_an_alias_of_what_it_stands_in_is_an_error() -> None:
    assert refused("a: &a\n  - *a") == [
        "turnout.yaml:1: a.0 is an alias of what it stands in; write it out."
    ]


def test_a_text_that_unfolds_without_end_is_an_error() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert refused(f"l0: &l0 [1, 1]\n{levels}")[0].endswith("it unfolds to too much.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "turnout.yaml:1: it is empty; expected at least `listeners` and `services`."),
        ("# only\n# comments", "turnout.yaml:1: it is empty"),
        ("a: 1\nb: [", "turnout.yaml:2: not valid YAML: "),
        ("a: 1\n\tb: 2", "turnout.yaml:2: not valid YAML: "),
        (
            "a: {b: ${PORT}}",
            "turnout.yaml:1: not valid YAML: expected ',' or '}', but got '{'. Between braces or "
            "brackets, put ${…} in quotes.",
        ),
        ("a: @", "turnout.yaml:1: not valid YAML: found character '@'"),
        ("a: 1\nb: !python/object:os.system x", "turnout.yaml:2: not valid YAML: "),
        ("a: 1\n---\nb: 2", "turnout.yaml:2: not valid YAML: "),
        ("a: \0", "turnout.yaml: not valid YAML: it has a character that YAML does not allow"),
        ("[" * 5_000, "turnout.yaml: it is nested too deeply."),
        ("? [a]\n: 1", "turnout.yaml:1: "),
        ("<<: 3", "turnout.yaml:1: << is 3; expected an alias of a mapping."),
    ],
)
def test_what_is_not_yaml_says_where(text: str, message: str) -> None:
    assert refused(text)[0].startswith(message)


def test_a_syntax_error_does_not_quote_the_file() -> None:
    assert "hunter2" not in refused("token: hunter2\n  x: [")[0]

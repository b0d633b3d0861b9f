"""The knobs as a whole: each is described, has a default that it accepts, and is documented."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from turnout.config import loader, model, reference
from turnout.config.knobs import Kind, Section
from turnout.config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

SMALL: dict[str, Any] = {
    "listeners": [{"bind": ":8080"}],
    "services": {
        "shop": {"upstreams": {"blue": {"servers": ["a:1"]}, "green": {"servers": ["a:2"]}}}
    },
}


def knobs(section: type[Section] = Settings, place: str = "") -> Iterator[tuple[str, Any]]:
    for attribute, field in section.model_fields.items():
        name = field.alias or attribute
        _, inside = reference.sections_of(field)
        if not inside:
            yield f"{place}{name}", field
        for kind in inside:
            yield from knobs(kind, f"{place}{name}.")


def test_every_knob_says_what_it_is_for() -> None:
    for place, field in knobs():
        assert field.description, place
        assert field.description.rstrip().endswith("."), place


def test_every_default_is_one_that_may_be_written() -> None:
    checked = 0
    for _, field in knobs():
        kinds = [entry for entry in field.metadata if isinstance(entry, Kind)]
        if kinds and not field.is_required() and field.default is not None:
            kinds[0].read(field.default, ROOT)
            checked += 1
            jsonschema.validate(field.default, kinds[0].schema())
    assert checked > 50


def test_the_knobs_that_need_a_restart_are_those_that_a_reload_looks_for() -> None:
    marked = {
        place
        for place, field in knobs()
        if isinstance(field.json_schema_extra, dict) and not field.json_schema_extra["x-live"]
    }
    assert marked == {*loader.RESTART_KEYS, "state.kind"}


def test_the_reference_page_is_what_the_settings_say() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `make docs`"


def test_the_reference_page_has_words_for_a_mapping_and_no_types_of_the_language() -> None:
    page = reference.page()
    assert "a mapping to: one line of at most 128 characters" in page
    assert "typing." not in page and "Annotated" not in page


def test_the_reference_page_names_every_knob() -> None:
    page = reference.page()
    missing = [place for place, _ in knobs() if f"`{place.rpartition('.')[2]}`" not in page]
    assert missing == []


def test_the_schema_is_a_schema_and_takes_what_the_loader_takes() -> None:
    schema = loader.schema()
    json.dumps(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    for document in (SMALL, YAML(typ="safe", pure=True).load(ROOT / "deploy/turnout.yaml")):
        jsonschema.validate(document, schema)
        loader.load_text(json.dumps(document), environ={})


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 0},
        {"wokers": 2},
        {"timeouts": {"header": 10}},
        {"timeouts": {"header": "soon"}},
        {"limits": {"connections": 0}},
        {"log": {"access": {"format": "xml"}}},
        {"services": {}},
        {"listeners": []},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(change: dict[str, Any]) -> None:
    document = {**SMALL, **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, loader.schema())
    with pytest.raises(loader.SettingsError):
        loader.load_text(json.dumps(document), environ={})


@pytest.mark.parametrize("health", ["off", False, {"path": "/up"}, {"passive": "off"}])
def test_the_schema_takes_off_as_a_word_and_as_false(health: object) -> None:
    document = json.loads(json.dumps(SMALL))
    document["services"]["shop"]["health"] = health
    jsonschema.validate(document, loader.schema())
    loader.load_text(json.dumps(document), environ={})


def test_every_value_is_read_by_somebody() -> None:
    """A knob that turns nothing is a lie in the reference."""
    rooms = [ROOT / "control", ROOT / "proxy", ROOT / "turnout"]
    files = [ROOT / "config" / "model.py", *(file for room in rooms for file in room.rglob("*.py"))]
    read = set(re.findall(r"\.(\w+)", "\n".join(file.read_text() for file in files)))
    kinds = [kind for kind in vars(model).values() if dataclasses.is_dataclass(kind)]
    unread = {
        f"{getattr(kind, '__name__', '')}.{field.name}"
        for kind in kinds
        for field in dataclasses.fields(kind)
        if field.name not in read
    }
    assert unread == set()


def test_the_example_to_deploy_is_right() -> None:
    configuration = loader.load(ROOT / "deploy" / "turnout.yaml", {})
    assert configuration.state.path == "/var/lib/turnout/turnout.db"
    assert configuration.services[0].names == ("blue", "green")

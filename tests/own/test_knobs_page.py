"""docs/knobs.md, the options of the command and the arguments of `pe_spatial.train` are one list."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pe_spatial.commands import train
from pe_spatial.commands.own_options import own_option_names
from pe_spatial.commands.shell import parse
from pe_spatial.own.knobs import _WORKERS
from pe_spatial.own.request import EPOCHS, LOGGERS, TUNINGS, Request

PAGE = (Path(__file__).parents[2] / "docs" / "knobs.md").read_text(encoding="utf-8")
ROWS = {row[1]: row[0] for row in re.finditer(r"^\| `--([\w-]+)` \|.*$", PAGE, re.MULTILINE)}
PLAIN = Request("detection", "folder")


def test_every_knob_is_explained_and_every_row_is_a_knob():
    names = {name.replace("_", "-") for name in own_option_names()}
    assert ROWS.keys() == names | {"output", "memory"}
    assert {field.name for field in fields(Request)} == {*own_option_names(), "task", "output", "overrides", "memory"}


def test_every_row_is_an_option_of_the_command():
    _, parser = parse("pe-spatial train", train, [])
    assert {f"--{name}" for name in ROWS} <= parser._option_string_actions.keys()


@pytest.mark.parametrize(
    ("knob", "default"),
    [
        ("epochs", f"| {EPOCHS} |"),
        ("workers", f"| {_WORKERS}, or one a core |"),
        ("seed", f"| {PLAIN.seed} |"),
        ("logger", f"| `{PLAIN.logger}` |"),
    ],
)
def test_defaults_are_those_of_the_code(knob, default):
    assert default in ROWS[knob]


def test_choices_are_named():
    assert all(f"`{name}`" in ROWS["tune"] for name in TUNINGS)
    assert all(f"`{name}`" in ROWS["logger"] for name in LOGGERS)

"""Files that a project has beside its code: they parse, agree with each other, and name what exists."""

import json
import re
import shlex
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

import pe_spatial
from pe_spatial.commands.shell import COMMANDS

ROOT = Path(__file__).parents[2]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def setup():
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def instructions(name):
    """(instruction, arguments) of a Dockerfile, continued lines joined."""
    lines = [line for line in read(name).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in text.splitlines()]


def test_the_version_is_the_same_everywhere(setup):
    citation = yaml.safe_load(read("CITATION.cff"))
    versions = {setup["metadata"]["version"], pe_spatial.__version__, citation["version"]}
    assert len(versions) == 1
    assert f"## {versions.pop()}" in read("CHANGELOG.md")


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys() and "2504.13181" in paper["url"]
    assert paper["authors"][0] == {"family-names": "Bolya", "given-names": "Daniel"} and len(paper["authors"]) == 18


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_a_form_for_issues_is_one_that_github_takes(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"input", "textarea", "checkboxes", "dropdown"}
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids)) and all(field["attributes"]["label"] for field in fields)


@pytest.mark.parametrize("name", ["Dockerfile", "examples/service/Dockerfile"])
def test_a_dockerfile_copies_what_the_builder_gets_and_runs_as_a_user(name):
    steps = instructions(name)
    names = {"FROM", "RUN", "ARG", "ENV", "COPY", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert steps[0][0] == "FROM" and {step[0] for step in steps} <= names
    users = [value for step, value in steps if step == "USER"]
    assert users and users[-1] not in ("root", "0")
    for value in [value for step, value in steps if step == "COPY"]:
        for source in shlex.split(value)[:-1]:
            assert f"!{source}" in read(".dockerignore").replace("dist/*.whl", "dist/pe_spatial-*.whl").splitlines()
            assert source.startswith("dist/") or (ROOT / source).exists()
    for value in [value for step, value in steps if step in ("ENTRYPOINT", "CMD") and value.startswith("[")]:
        assert json.loads(value)


def test_the_dockerfile_installs_extras_and_a_command_that_exist(setup):
    steps = instructions("Dockerfile")
    (extras,) = [value.partition("=")[2] for step, value in steps if step == "ARG" and value.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= set(setup["options.extras_require"])
    (entry,) = [json.loads(value) for step, value in steps if step == "ENTRYPOINT"]
    assert f"{entry[0]} =" in setup["options.entry_points"]["console_scripts"]
    runs = re.findall(r"^# +docker run .* pe-spatial(?::cuda)? (\w+)", read("Dockerfile"), re.MULTILINE)
    assert runs and set(runs) <= set(COMMANDS)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(name):
    for target in re.findall(r"\]\((?!https?:)([^)#]*)", read(name)):
        assert (ROOT / target).exists(), target


def test_contributing_is_one_page():
    assert len(read("CONTRIBUTING.md").splitlines()) <= 90

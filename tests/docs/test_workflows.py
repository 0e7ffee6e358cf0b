"""The workflows of GitHub call targets that exist, with versions that the package takes."""

import re
from importlib.metadata import distributions

import pytest
import yaml
from doc_pages import ROOT, read
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TESTS = yaml.safe_load(read(ROOT / ".github/workflows/tests.yml"))["jobs"]["tests"]["strategy"]["matrix"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_that_exist(path):
    workflow = yaml.safe_load(read(path))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    called = {name for step in steps for name in re.findall(r"^make ([\w-]+)", step.get("run", ""), re.MULTILINE)}
    assert called and called <= set(re.findall(r"^([\w-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    assert workflow["permissions"] == {"contents": "read"}


def test_the_versions_are_those_that_the_package_takes():
    setup, pins = read(ROOT / "setup.cfg"), read(ROOT / "constraints.txt")
    assert f"python_requires = >={TESTS['python'][0]}" in setup
    oldest, newest = TESTS["torch"]
    assert f"torch >= {oldest['torch'].removesuffix('.0')}" in setup
    assert f"torchvision >= {oldest['torchvision'].removesuffix('.0')}" in setup
    assert all(f"{name}=={version}\n" in pins for name, version in newest.items())


def test_a_pin_for_all_versions_of_python_takes_the_oldest():
    """As far as packages are installed here: a package that has left it needs two pins with a condition."""
    oldest = TESTS["python"][0]
    pins = re.findall(r"^([\w.-]+)==(\S+)$", read(ROOT / "constraints.txt"), re.MULTILINE)
    installed = {canonicalize_name(each.name): each for each in distributions()}
    checked, gone = 0, []
    for name, version in pins:
        found = installed.get(canonicalize_name(name))
        if found is None or found.version != version:
            continue
        checked += 1
        if not SpecifierSet(found.metadata.get("Requires-Python") or "").contains(f"{oldest}.99"):
            gone.append(name)
    assert checked > 20 and gone == []


def test_the_site_that_is_published_is_the_one_that_is_built():
    text = read(ROOT / ".github/workflows/docs.yml")
    assert "path: build/site" in text and "site_dir: build/site" in read(ROOT / "mkdocs.yml")
    assert "make docs" in read(ROOT / ".ci/run")

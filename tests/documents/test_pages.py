"""README stays short and names what exists; pages say who needs them, and nothing outside of the repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(page for section in ("guides", "explanations", "measurements") for page in (DOCS / section).glob("*.md"))


def test_the_readme_is_read_in_minutes():
    assert len(README.split("\n")) <= 200


def test_recipes_of_the_readme_exist():
    rows = README.partition("## Results")[2].partition("\n## ")[0]
    names = re.findall(r"`([\w/]+\.yaml)`", rows)
    assert names
    assert not [name for name in names if not (ROOT / "configs" / name).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_says_who_needs_it_and_what_it_gives(page):
    heading, who, end = page.read_text(encoding="utf-8").split("\n\n")[:3]
    assert heading.startswith("# ")
    assert who.startswith("**Who needs this:** ")
    assert end.startswith("**At the end:** ")


def test_no_page_names_a_path_outside_of_the_repository():
    """Such as a folder of data that only we have."""
    found = {}
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        depth = len(page.relative_to(ROOT).parts) - 1
        climbs = [path for path in re.findall(r"(?:\.\./)+", page.read_text(encoding="utf-8")) if len(path) > 3 * depth]
        if climbs or re.search(r"(?<![\w.])/(?:work|home|root)/", page.read_text(encoding="utf-8")):
            found[page.name] = climbs
    assert found == {}

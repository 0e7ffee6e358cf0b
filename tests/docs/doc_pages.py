"""The documents of the repository, as the tests of this folder read them."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")), *PAGES]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def read(path):
    return path.read_text(encoding="utf-8")


def without_code(text):
    """A document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```[^\S\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def codes(text):
    """Code in running text, without its backticks."""
    return re.findall(r"`([^`\n]+)`", without_code(text))


def blocks(text):
    """(language, mark in the comment before it, code) of the blocks; the code without its indentation."""
    mark = r"(?:^ *<!-- (?P<mark>[^\n]*) -->\n)?"
    pattern = mark + r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)^ *```[^\S\n]*$"
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        yield match["language"], match["mark"] or "", code


def anchors(text):
    """Anchors of the headings of a document, as GitHub and the site make them, and those that stand in HTML."""
    found, counts = set(re.findall(r"(?:id|name)=\"([^\"]+)\"", text)), {}
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", without_code(text), re.MULTILINE):
        if explicit := re.search(r"\{#([\w-]+)\}$", title):
            found.add(explicit[1])
            continue
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        count = counts.get(slug, 0)
        counts[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags stand for what MkDocs puts in."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def settings():
    """mkdocs.yml."""
    return yaml.load(read(ROOT / "mkdocs.yml"), _Loader)  # noqa: S506 - safe


def entries(node):
    """The pages of the menu."""
    if isinstance(node, str):
        return [node]
    return [page for part in (node.values() if isinstance(node, dict) else node) for page in entries(part)]

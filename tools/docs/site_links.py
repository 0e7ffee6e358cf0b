"""Links between the documents of the repository, seen from the site and from the checkout."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from html import unescape
from pathlib import Path

# files of the checkout that are pages of the site
ROOT_PAGES = {
    "CONTRIBUTING.md": "developing/contributing.md",
    "CHANGELOG.md": "developing/changelog.md",
    "SECURITY.md": "developing/security.md",
    "CODE_OF_CONDUCT.md": "developing/code_of_conduct.md",
}
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
_LINK = re.compile(
    r"(?P<open>!?\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\()(?P<target>[^)\s]+)(?P<close>(?:\s+\"[^\"]*\")?\))"
)
_ITEM = re.compile(r"([*+-]|\d+\.) ")
_OUTPUT = re.compile(r'<div class="language-text highlight">(.*?</pre>)', re.DOTALL)
_COMMANDS = re.compile(r'<div class="language-bash highlight">.*?</pre>', re.DOTALL)
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_COLUMNS = re.compile(r"\S {2,}\S")
WIDEST = 105  # characters of a line of output that is not broken: the table of a detector has 104


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with its lines outside of code blocks changed, those between two blocks together."""
    parts = re.split(r"(^ *```.*?^ *```[^\S\n]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def with_lists(markdown: str) -> str:
    """An empty line before every list: Python's Markdown needs one, GitHub does not."""
    lines: list[str] = []
    is_code = False
    for line in markdown.split("\n"):
        is_code ^= line.lstrip().startswith("```")
        before = lines[-1] if lines else ""
        is_text = (
            before.strip() and not before[0].isspace() and not _ITEM.match(before) and not before.startswith("```")
        )
        if not is_code and _ITEM.match(line) and is_text and not _continues_item(lines):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def with_breakable_code(html: str) -> str:
    """Classes for stylesheets/site.css: options of commands, which stay whole, and output whose lines may be broken.

    The lines of a table stay whole where they fit a wide page.
    """

    def mark(block: re.Match[str]) -> str:
        lines = unescape(re.sub(r"<[^>]+>", "", block[1])).splitlines()
        is_table = any(_COLUMNS.search(line) for line in lines) and max(map(len, lines)) <= WIDEST
        return f'<div class="language-text highlight{"" if is_table else " breakable"}">{block[1]}'

    html = _COMMANDS.sub(lambda block: _OPTION.sub(r'<span class="option">\g<0></span>', block[0]), html)
    return _OUTPUT.sub(mark, html)


def _continues_item(lines: list[str]) -> bool:
    """Whether the paragraph that the lines end with is an item of a list."""
    for line in reversed(lines):
        if not line.strip() or line.startswith(("#", "```")):
            return False
        if _ITEM.match(line):
            return True
    return False


def targets(markdown: str) -> Iterator[str]:
    """What the links and pictures of a document point to, code left out."""
    found: list[str] = []

    def collect(text: str) -> str:
        found.extend(match["target"] for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", text)))
        return text

    outside_code(markdown, collect)
    return iter(found)


def resolved(target: str, source: str) -> tuple[str, str]:
    """File in the checkout (empty: an address of the web) and anchor that a link of the document `source` names."""
    path, _, anchor = target.partition("#")
    if re.match(r"[a-z][a-z+.-]*:", target):
        return "", anchor
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path)) if path else source, anchor


def pictures_outside(root: Path, documents: Iterable[Path]) -> list[str]:
    """Pictures outside docs/ that documents show, as paths in the checkout."""
    found = set()
    for document in documents:
        source = document.relative_to(root).as_posix()
        found |= {resolved(target, source)[0] for target in targets(document.read_text(encoding="utf-8"))}
    return sorted(path for path in found if path.endswith(PICTURES) and not path.startswith("docs/"))


def picture_uri(path: str) -> str:
    """Where the site has a picture from outside docs/."""
    return f"pictures/{path.lstrip('.')}"


def rewritten(markdown: str, source: str, uri: str, repository: str) -> str:
    """A document with links that the site can follow.

    Args:
        markdown: Its text.
        source: The file in the checkout that its links are relative to.
        uri: Its place in the site.
        repository: Address of the repository, or an empty text: then a link to a source file is its text alone.
    """

    def replace(match: re.Match[str]) -> str:
        path, anchor = resolved(match["target"], source)
        if not path:
            return match[0]
        suffix = f"#{anchor}" if anchor else ""
        if path == source:
            return f"{match['open']}{suffix}{match['close']}"
        if path in ROOT_PAGES:
            path = f"docs/{ROOT_PAGES[path]}"
        elif path == "README.md":
            path, suffix = "docs/index.md", ""
        elif path.endswith(PICTURES) and not path.startswith("docs/"):
            path = f"docs/{picture_uri(path)}"
        if path.startswith("docs/"):
            place = posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(uri) or ".")
            return f"{match['open']}{place}{suffix}{match['close']}"
        if repository:
            return f"{match['open']}{repository.rstrip('/')}/blob/main/{path}{suffix}{match['close']}"
        return match["text"]

    return outside_code(markdown, lambda text: _LINK.sub(replace, text))

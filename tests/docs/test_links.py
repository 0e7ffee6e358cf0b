"""Every link and anchor of README and the pages leads somewhere; the network is not asked."""

import re

import pytest
import site_links
from command_pages import command_pages
from doc_pages import DOCS, DOCUMENTS, ROOT, anchors, name_of, read

MADE = command_pages()


def wrong_links(source, text):
    """Links of a document that lead nowhere."""
    wrong = []
    for target in [*site_links.targets(text), *re.findall(r"<(?:img|a)[^>]+(?:src|href)=\"([^\"]+)\"", text)]:
        path, anchor = site_links.resolved(target, source)
        if not path:
            continue
        if path.startswith("docs/") and path.removeprefix("docs/") in MADE:
            content = MADE[path.removeprefix("docs/")]
        elif (ROOT / path).is_dir():
            continue
        elif not (ROOT / path).is_file():
            wrong.append(target)
            continue
        else:
            content = read(ROOT / path) if path.endswith(".md") else ""
        if anchor and path.endswith(".md") and anchor not in anchors(content):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_and_anchors_lead_somewhere(path):
    assert wrong_links(name_of(path), read(path)) == []


def test_wrong_links_are_found():
    text = "[a](knobs.md) [b](no.md) [c](knobs.md#no) ![d](no.png) [e](../README.md) [f](https://x.org) `[g](h)`"
    assert wrong_links("docs/planner.md", text) == ["no.md", "knobs.md#no", "no.png"]
    assert wrong_links("docs/planner.md", '```\n[a](no.md)\n```\n<img src="no.png">') == ["no.png"]
    assert wrong_links("docs/reference/index.md", "[a](commands/train.md) [b](commands/no.md)") == ["commands/no.md"]


def test_anchors_are_those_that_github_makes():
    text = "# One: `two` & three\n## Again\n## Again\n```\n# no\n```\n<a id='x'></a><a id=\"y\"></a>\n### What {#own}\n"
    assert anchors(text) == {"one-two--three", "again", "again-1", "y", "own"}


# --- on the site ------------------------------------------------------------------------------------------------------
def test_links_out_of_docs_are_those_of_the_site():
    text = (
        "[a](../CONTRIBUTING.md#x) [b](../tools/track.py) [c](search.md) [d](../README.md#x) ![e](../.github/demo.jpg)"
    )
    without = site_links.rewritten(text, "docs/planner.md", "planner.md", "")
    assert without == (
        "[a](developing/contributing.md#x) b [c](search.md) [d](index.md) ![e](pictures/github/demo.jpg)"
    )
    there = site_links.rewritten(text, "docs/planner.md", "planner.md", "https://forge/us/it/")
    assert "[b](https://forge/us/it/blob/main/tools/track.py)" in there
    root = site_links.rewritten("[a](docs/planner.md) [b](#x)", "SECURITY.md", "developing/security.md", "")
    assert root == "[a](../planner.md) [b](#x)"


def test_lists_are_read_as_github_reads_them():
    assert site_links.with_lists("text:\n* a\n  b\n* c\n") == "text:\n\n* a\n  b\n* c\n"
    assert site_links.with_lists("* a\nb\n* c") == "* a\nb\n* c"
    assert site_links.with_lists("```\na\n* b\n```\n# x\n1. c") == "```\na\n* b\n```\n# x\n\n1. c"


def test_code_keeps_its_links():
    text = "[a](no.md)\n```\n[b](../x.py)\n```\n"
    assert site_links.rewritten(text, "docs/a.md", "a.md", "") == "[a](no.md)\n```\n[b](../x.py)\n```\n"


def test_no_document_names_a_place_outside_the_repository():
    wrong = {
        name_of(path): found
        for path in DOCUMENTS
        if (found := re.findall(r"\.\./shared\b|/work/\w+|/home/\w+/pe", read(path)))
    }
    assert wrong == {}
    assert DOCS.is_dir()


def test_lines_of_output_may_be_broken_but_not_those_of_tables_that_fit():
    block = '<div class="language-text highlight"><pre><span></span><code>{}\n</code></pre></div>'
    table = "a  " + "&lt;" * (site_links.WIDEST - 3)
    assert site_links.with_breakable_code(block.format(table)) == block.format(table)
    broken = site_links.with_breakable_code(block.format(table + ".") + block.format(table) + block.format("a b"))
    assert re.findall("highlight( breakable)?", broken) == [" breakable", "", " breakable"]


def test_options_of_commands_stay_whole():
    block = '<div class="language-bash highlight"><pre><code>run<span> </span>--to-x<span> </span>a--b</code></pre>'
    whole = site_links.with_breakable_code(block + "--no")
    assert whole == block.replace("--to-x", '<span class="option">--to-x</span>') + "--no"

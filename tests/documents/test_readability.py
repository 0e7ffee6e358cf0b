"""tools/dev/readability.py: what is a sentence, what is left out, and when a page is refused."""

import pytest
import readability
from readability import markdown_cells, sentences

from pe_spatial.commands.shell import run_module


def main(arguments):
    return run_module(readability, "readability.py", arguments)


PAGE = """---
title: a page
---
# A heading of many words is no sentence

The first sentence
goes on here. `code with spaces` is one word, e.g. `a.b`! See [the page of links](a/b.md).

```bash
pe-spatial train detection --data photos
```

| a table | has no sentences. None |
|---|---|

* an item without a full stop
* [ ] a second one;
  with a second line

!!! note "A title"
    What stands in a box counts.

<p align="center"> HTML does not. </p>
<!-- Nor does
a comment. -->
![A picture does not](x.png)
"""


def test_sentences_are_found_with_their_lines():
    assert [(found.line, found.text) for found in sentences(PAGE)] == [
        (6, "The first sentence goes on here."),
        (7, "`code_with_spaces` is one word, e.g. `a.b`!"),
        (7, "See the page of links."),
        (16, "an item without a full stop"),
        (17, "a second one; with a second line"),
        (21, "What stands in a box counts."),
    ]
    assert [found.words for found in sentences(PAGE)] == [6, 6, 5, 6, 7, 6]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It takes 3.5 s. It ends.", 2),
        ("Use one, i.e. the first. Fig. 2 shows it.", 2),
        ('He said "stop." Then he went.', 2),
        ("The file pyproject.toml is read", 1),
        ("Is it? Yes! It is…", 3),
        ("~~~\nNo prose. Here.\n~~~\nHere.", 1),
        ("> A quotation. It counts.", 2),
        ("````md\n```\nInside. Still inside.\n```\n````\nOutside.", 1),
        ("    ```\n    a. b.\n    ```\n", 0),
        ("***", 0),
    ],
)
def test_where_a_sentence_ends(text, count):
    assert len(sentences(text)) == count


def test_a_page_within_the_limits_passes(tmp_path, capsys):
    (tmp_path / "page.md").write_text(PAGE)
    assert main([str(tmp_path)]) == 0
    assert "page.md: 6 sentences, median 6 words, longest 7" in capsys.readouterr().out


def test_what_is_wrong_is_said_with_its_line(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("One two three.\n\nOne two three four five six, which was Drawn.\n")
    assert main([str(page), "--median", "5", "--longest", "8", "--without", "drawn", "brought down", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        f"{page}:3: 9 words, at most 8; split it: One two three four five six, which was Drawn.",
        f"{page}: the median sentence has 6 words, at most 5; shorten the sentences",
        f'{page}:3: "drawn" is not plain English here; use the field\'s term',
    ]
    assert main([str(tmp_path / "no.md")]) == 2
    assert "no.md does not exist; name Markdown files or folders of them" in capsys.readouterr().err


def test_the_markdown_of_a_notebook_counts():
    source = "# %% [markdown]\n# # Title\n# A sentence.\n\n# %%\n# a remark in code. It does not count.\nx = 1\n"
    assert [(found.line, found.text) for found in sentences(markdown_cells(source))] == [(3, "A sentence.")]

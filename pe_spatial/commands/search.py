"""Find pictures and videos of an index by words, or by a picture; and score an index with captions.

    pe-spatial search INDEX "a red bicycle"
    pe-spatial search INDEX "a red bicycle" --top-k 40 --output OUT
    pe-spatial search INDEX photo.jpg --output OUT
    pe-spatial search INDEX --evaluate captions.json
    pe-spatial search INDEX --evaluate captions.csv --output OUT

A query that ends like a picture or a video (.jpg, .mp4 and so on) is a path; anything else is text. The
hits are printed with their scores. With --output, OUT has hits.json, hits.csv and hits.png, a contact sheet. All rows
are compared exactly; docs/search.md has the times, and what to do above ten million rows.

With --evaluate, captions are searched for and with: COCO's captions, a JSON object with the captions of each picture,
or a CSV with a picture and a caption in each line. Recall at 1, 5 and 10 is printed for both directions, beside that
of a random order. Captions of pictures that are not in the index are counted.

The encoder is that of the index; give --encoder and --weights if it was moved.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.options import CommandParser, add_shared, positive
from pe_spatial.common.console import print_note, print_warning

if TYPE_CHECKING:
    from pe_spatial.search import Index


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("index", metavar="INDEX", type=Path, help="a folder that pe-spatial index wrote")
    add("query", metavar="QUERY", nargs="?", help="text, or the path of a picture or a video")
    add("--top-k", type=positive, default=10, metavar="N", help="how many hits")
    add("--evaluate", metavar="FILE", type=Path, help="captions of the pictures: JSON or CSV")
    add("--encoder", metavar="NAME", help="new path of the encoder of the index, if it was moved")
    add("--weights", metavar="PATH", help="new path of its weights")
    add("--root", metavar="PATH", type=Path, help="new folder of the pictures of the index, if they were moved")
    add_shared(parser, "--output", "--device", "--max-pixels")


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse a command without, or with two, questions."""
    if (options.query is None) == (options.evaluate is None):
        parser.error('give a query ("a red bicycle", or a picture), or --evaluate with captions')


def run(options: argparse.Namespace) -> int:
    """Search or evaluate; returns the exit status."""
    from pe_spatial.search import Index
    from pe_spatial.search.product import MANY_ROWS

    index = Index(options.index, options.encoder, options.weights, options.device)
    if len(index) > MANY_ROWS:
        print_note(f"{len(index):,} rows are all compared; for so many, docs/search.md hands them to FAISS")
    return _search(index, options) if options.evaluate is None else _evaluate(index, options)


def _search(index: Index, options: argparse.Namespace) -> int:
    from pe_spatial.search.index import names_file
    from pe_spatial.search.results import LIST, SHEET, TABLE, draw_hits, write_hits

    hits = index.search(options.query, options.top_k)
    if len(hits) < options.top_k:
        print_note(f"--top-k {options.top_k}: {options.index} has {len(index)} rows, and all of them are shown")
    print(f"{'file' if names_file(options.query) else 'text'}: {options.query}")
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:4}  {hit.score:.4f}  {hit}")
    if options.output is not None:
        write_hits(options.output, options.index, options.query, hits)
        problems = draw_hits(options.output / SHEET, options.root or index.root, options.query, hits)
        print(f"wrote {options.output / LIST}, {TABLE} and {SHEET}")
        if problems:
            print_warning(f"{len(problems)} of the hits cannot be shown ({problems[0]}); --root says where they are")
    return 0


def _evaluate(index: Index, options: argparse.Namespace) -> int:
    from pe_spatial.common.errors import few
    from pe_spatial.common.files import write_json
    from pe_spatial.search.recall import evaluate, match, read_captions

    truth = match(index, read_captions(options.evaluate))
    result = evaluate(index, truth)
    print(f"{result['captions']} captions of {result['pictures']} pictures, among {len(index)} rows")
    for name in ("text_to_image", "image_to_text"):
        print(_line(name, result[name]))
    if truth.missing:
        names = few(dict.fromkeys(name for name, _ in truth.missing))
        print_note(
            f"{len(truth.missing)} captions left out, because their pictures are not in {options.index} ({names})"
        )
    if truth.uncaptioned:
        print_note(f"{truth.uncaptioned} rows have no captions; texts may find them, by mistake")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        write_json(options.output / "recall.json", {"index": str(options.index), **result})
        print(f"wrote {options.output / 'recall.json'}")
    return 0


def _line(name: str, figures: dict[str, Any]) -> str:
    levels = [key.partition("@")[2] for key in figures if key.startswith("R@")]
    shown = (f"R@{level} {figures[f'R@{level}']:.1%} (chance {figures[f'chance@{level}']:.1%})" for level in levels)
    return f"{name.replace('_', ' '):14} {'  '.join(shown)}"

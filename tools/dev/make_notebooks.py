"""Write the notebooks of the tutorials: `make notebooks`.

    python tools/dev/make_notebooks.py

The text of a notebook is that of `docs/tutorials`, and nothing is written twice. A block of bash or Python becomes a
cell, and all else is Markdown. Blocks that need weights or a GPU stay text. A first cell installs the package where it
is missing, as in Colab. With `--check` nothing is written, and the exit status is 1 where a notebook is not that of its
tutorial.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from tutorials import shortened_text

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_module

ROOT = Path(__file__).parents[2]
TUTORIALS, NOTEBOOKS = ROOT / "docs/tutorials", ROOT / "docs/notebooks"
EXTRAS = "text,segmentation,onnx,service"
INSTALL = """```python
# installs pe_spatial where it is missing, for example in Colab; SOURCE is the address of the repository
import importlib.util
import os

if importlib.util.find_spec("pe_spatial") is None:
    SOURCE = os.environ.get("PE_SPATIAL_SOURCE", "git+https://github.com/OWNER/pe_spatial")
    %pip install --quiet "pe_spatial[{extras}] @ {{SOURCE}}"
```
"""
HEAD = "---\njupyter:\n  kernelspec: {display_name: Python 3, language: python, name: python3}\n---\n"
_FAILS = re.compile(r"^<!-- fails -->\n```bash\n", re.M)
_NEEDS = re.compile(r"^<!-- needs: \w+ -->\n```(\w+)\n", re.M)


def notebook_of(tutorial: Path, replacements: dict[str, str] | None = None) -> str:
    """A tutorial as the JSON text of a notebook.

    Args:
        tutorial: A page of `docs/tutorials`.
        replacements: What is written otherwise in the cells of code; see `tutorials.shortened`.
    """
    import jupytext  # of the extra `docs`, which tests do without

    title, _, text = tutorial.read_text(encoding="utf-8").partition("\n")
    text = _FAILS.sub("```bash\n# --no-raise-error\n", text)
    text = _NEEDS.sub(r"```\1 .noeval\n", text)
    text = re.sub(r"\]\(images/", "](../tutorials/images/", text)
    text = re.sub(r"\]\(((?!https?:|\.\./)[\w/]+\.md)", r"](../tutorials/\1", text)
    notebook = jupytext.reads(f"{HEAD}{title}\n{INSTALL.format(extras=EXTRAS)}\n{text}", fmt="md")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "colab": {"name": f"{tutorial.stem}.ipynb"},
    }
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
        if cell.cell_type == "code":
            cell.source = cell.source.replace("%%bash\n# --no-raise-error\n", "%%bash --no-raise-error\n")
            cell.source = shortened_text(cell.source, replacements or {})
        else:
            cell.source = cell.source.replace(" .noeval\n", "\n")
    return str(jupytext.writes(notebook, fmt="ipynb")) + "\n"


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")


def run(options: argparse.Namespace) -> int:
    """Write all notebooks, or compare them."""
    NOTEBOOKS.mkdir(exist_ok=True)
    different = []
    for tutorial in sorted(TUTORIALS.glob("*.md")):
        path = NOTEBOOKS / f"{tutorial.stem}.ipynb"
        if tutorial.stem == "index":
            continue
        text = notebook_of(tutorial)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            different.append(os.path.relpath(path, ROOT))
            if not options.check:
                path.write_text(text, encoding="utf-8")
    for name in different:
        print(f"{name} is not that of its tutorial; run `make notebooks`" if options.check else f"wrote {name}")
    return int(options.check and bool(different))


if __name__ == "__main__":
    sys.exit(run_module(sys.modules[__name__], "tools/dev/make_notebooks.py"))

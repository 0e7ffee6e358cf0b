"""Every notebook is that of its tutorial, and runs from start to end with the numbers of `test_tutorials`."""

import json

import make_notebooks
import pytest
from make_notebooks import NOTEBOOKS, notebook_of
from test_tutorials import NEEDS, TUTORIALS, environment, replacements  # noqa: F401 - a fixture

from pe_spatial.commands.shell import run_module

pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_is_written_from_its_tutorial(path):
    written = (NOTEBOOKS / f"{path.stem}.ipynb").read_text(encoding="utf-8")
    assert written == notebook_of(path), "run `make notebooks`"
    notebook = nbformat.reads(written, 4)
    nbformat.validate(notebook)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "pip install" in first.source
    assert "<!-- needs" not in written and "<!-- fails" not in written and "noeval" not in written


def test_there_is_no_notebook_without_a_tutorial():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {path.stem for path in TUTORIALS}


@pytest.mark.tutorials
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, environment, monkeypatch):  # noqa: F811
    nbclient = pytest.importorskip("nbclient")
    if package := NEEDS.get(path.stem):
        pytest.importorskip(package)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = notebook_of(path, {"%%bash\n": "%%bash -e\n"} | replacements(path.stem))
    notebook = nbformat.reads(text, 4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    # what must fail has failed: its message is an output of its cell
    failed = [cell for cell in cells if cell.source.startswith("%%bash --no-raise-error")]
    assert failed and all("error" in json.dumps(cell.outputs) for cell in failed)


def test_a_notebook_that_was_changed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_notebooks, "NOTEBOOKS", tmp_path)
    assert run_module(make_notebooks, "make_notebooks.py", []) == 0
    (tmp_path / "depth.ipynb").write_text("{}")
    assert run_module(make_notebooks, "make_notebooks.py", ["--check"]) == 1
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("depth.ipynb is not that of its tutorial; run `make notebooks`")
    )

"""`import pe_spatial` takes no time, and what it offers is there."""

import ast
import subprocess
import sys

import pytest

import pe_spatial


def test_the_import_loads_nothing_heavy():
    code = "import pe_spatial, sys; print({'torch', 'numpy', 'mmengine', 'PIL'} & set(sys.modules), dir(pe_spatial))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("set()")
    assert "'Predictor'" in answer.stdout


@pytest.mark.parametrize("name", pe_spatial.__all__)
def test_every_public_name_is_documented_and_there(name):
    assert getattr(pe_spatial, name).__doc__
    assert name in dir(pe_spatial)


def test_type_checkers_and_python_see_the_same_names():
    with open(pe_spatial.__file__) as file:
        tree = ast.parse(file.read())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == pe_spatial._MODULES
    assert pe_spatial.__all__ == sorted(typed)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'Predicter'"):
        pe_spatial.Predicter  # noqa: B018

"""A copy of a dataset, to damage."""

import pytest
from format_scenes import copy_of


@pytest.fixture
def damaged(tmp_path):
    """Copies a dataset, changes one text in one of its files, and returns its folder."""

    def make(name, file, old, new, encoding="utf-8"):
        folder = copy_of(name, tmp_path)
        path = folder / file
        text = path.read_bytes().decode() if path.exists() else ""
        assert old in text, text
        path.write_bytes((text.replace(old, new, 1) if old else new).encode(encoding))
        return folder

    return make

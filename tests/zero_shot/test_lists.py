"""Lists of classes and templates from the command line, from files and from open_clip."""

import pytest

from pe_spatial.common.errors import OptionError
from pe_spatial.zero_shot.lists import read_prompts


def test_names_with_commas_and_files_give_the_same(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffcat\n\n  fire truck \nset {of, things}\n", encoding="utf-8")
    assert read_prompts(str(file)).classes == ("cat", "fire truck", "set {of, things}")
    assert read_prompts("cat, fire truck,").classes == ("cat", "fire truck")
    plain = tmp_path / "names"
    plain.write_text("cat\n")
    assert read_prompts(str(plain)).classes == ("cat",)


def test_templates_of_a_file(tmp_path):
    (tmp_path / "templates.txt").write_text("a photo of {c}.\na {} {x}\n")
    prompts = read_prompts("a {b}", str(tmp_path / "templates.txt"))
    assert prompts.of("a {b}") == ["a photo of a {b}.", "a a {b} {x}"]
    assert read_prompts("cat").of("cat") == ["cat"]


def test_the_lists_of_imagenet():
    pytest.importorskip("open_clip")
    prompts = read_prompts("imagenet", "imagenet")
    assert (len(prompts.classes), len(prompts.templates)) == (1000, 80)
    assert prompts.of("tench")[0] == "a bad photo of a tench."
    assert prompts.classes[0] == "tench"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (" \n", "is empty; write one class per line"),
        ("cat\ncat\n", "are given more than once"),
        (None, "there is no file"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    file = tmp_path / "classes.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(OptionError, match=message):
        read_prompts(str(file))


@pytest.mark.parametrize("classes", ["", " , ,"])
def test_no_names_are_refused(classes):
    with pytest.raises(OptionError, match="there are no classes"):
        read_prompts(classes)

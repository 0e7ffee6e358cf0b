"""`pe-spatial convert data`: what it prints, writes and refuses."""

from pathlib import Path

import pytest

from pe_spatial.commands.shell import main
from pe_spatial.data.formats import read_instances

FORMATS = Path(__file__).parents[1] / "data" / "formats"


def test_a_data_set_is_recognized_printed_and_converted(tmp_path, capsys):
    assert main(["convert", "data", str(FORMATS / "coco_roboflow"), str(tmp_path / "out"), "--to", "yolo"]) == 0
    said = capsys.readouterr()
    assert "COCO instances, as Roboflow exports them" in said.out
    assert "train: 1 images, 2 objects, 2 classes (cat, dog)" in said.out
    assert f"Wrote yolo to {tmp_path / 'out'}, with links to the pictures." in said.out
    assert "warning: train: class left out, because it only groups the others: 1 (pets)" in said.err
    assert len(read_instances(tmp_path / "out", "train").annotations) == 2
    assert (tmp_path / "out/images/train").is_dir()


def test_losses_are_refused_or_said(tmp_path, capsys):
    command = ["convert", "data", str(FORMATS / "coco"), str(tmp_path / "out"), "--to", "voc"]
    assert main(command) == 2
    assert "error: voc cannot store everything; all: masks left out, boxes kept: 3" in capsys.readouterr().err
    assert main([*command, "--allow-loss"]) == 0
    assert "warning: lost in voc: all: masks left out, boxes kept: 3" in capsys.readouterr().err
    assert main([*command, "--allow-loss"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_one_split_in_a_format_that_is_named(tmp_path, capsys):
    source, out = str(FORMATS / "voc"), str(tmp_path / "out")
    command = [
        "convert",
        "data",
        source,
        out,
        "--to",
        "coco",
        "--format",
        "voc0",
        "--split",
        "val",
        "--pictures",
        "keep",
    ]
    assert main(command) == 0
    assert f"the pictures stay in {FORMATS / 'voc' / 'JPEGImages'}" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out/annotations").iterdir()] == ["instances_val.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("panoptic", "has no boxes; CocoPanoptic reads it"),
        ("README.md", "contains no dataset"),
        ("absent", "no such file"),
    ],
)
def test_what_cannot_be_converted_is_a_mistake(tmp_path, capsys, name, message):
    assert main(["convert", "data", str(FORMATS / name), str(tmp_path / "out"), "--to", "coco"]) == 2
    assert message in capsys.readouterr().err


def test_weights_are_converted_as_before(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["convert", "data"])
    assert end.value.code == 2
    assert "required: --to" in capsys.readouterr().err
    assert main(["convert", "--input", "absent.pth", "--output", str(tmp_path / "a.pth"), "--to", "timm"]) == 2


@pytest.mark.parametrize("pictures", ["copy", "keep", "link"])
def test_pictures_are_copied_linked_or_left_where_they_are(tmp_path, pictures):
    command = ["convert", "data", str(FORMATS / "yolo_boxes"), str(tmp_path / "out"), "--to", "coco"]
    assert main([*command, "--pictures", pictures]) == 0
    written = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".jpg", ".png")]
    assert bool(written) == (pictures != "keep")
    assert all(path.is_symlink() == (pictures == "link") for path in written)

"""Pascal VOC: pixels counted from 1, XML without surprises, and what is said about faults."""

import shutil

import pytest
from format_scenes import FORMATS, TRUTH, copy_of, objects_of
from PIL import Image

from pe_spatial.common.errors import AnnotationError, UserError
from pe_spatial.data.formats import choose, read_instances
from pe_spatial.data.formats.voc import parse_xml

FILE = "Annotations/a.xml"
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]>\n<annotation>'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<annotation>", BOMB, r"a\.xml:1: a document type"),
        ("<annotation>", '<!DOCTYPE annotation SYSTEM "file:///etc/passwd">\n<annotation>', "a document type"),
        ("</annotation>", "", "not XML: no element found"),
        ("<name>cat</name>", "<name>cat</nam>", "not XML: mismatched tag: line 12"),
        ("<name>cat</name>", "<name>&cat;</name>", "not XML: undefined entity"),
        ("<name>cat</name>", "<name> </name>", r"object 1: no <name>"),
        ("<xmin>5</xmin>", "<xmin>0</xmin>", r"object 1 \(cat\): the box starts at 0, .* counts pixels from 1; .*voc0"),
        ("<xmin>5</xmin>", "<xmin>-3</xmin>", "the box starts at -3"),
        ("<xmin>5</xmin>", "<xmin>five</xmin>", "<xmin> of <bndbox> is 'five'; it must be a number"),
        ("<xmin>5</xmin>", "<xmin>nan</xmin>", "<xmin> of <bndbox> is 'nan'"),
        ("<xmin>5</xmin>", "<xmin>1e30</xmin>", "<xmin> of <bndbox> is '1e30'"),
        ("<xmin>5</xmin>", "", "<xmin> of <bndbox> is ''"),
        ("<xmin>5</xmin>", "<xmin>15</xmin>", r"the box ends \(12, 18\) before it starts"),
        ("<bndbox>", "<robndbox><angle>1</angle></robndbox><bndbox>", "a rotated box <robndbox>;"),
        (
            "<width>32</width>",
            "<width>24</width>",
            r"gives height 24 and width 24, but .*a\.jpg has 24 and 32; correct",
        ),
        ("<width>32</width>", "<width>w</width>", "<size> is '24' × 'w'"),
        ("a.jpg", "b.jpg", "<filename> is JPEGImages/b.jpg, but the picture with its name is JPEGImages/a.jpg"),
        ("a.jpg", "../../etc/a.jpg", "is outside the dataset"),
    ],
)
def test_faults_are_named(damaged, old, new, message):
    folder = damaged("voc", FILE, old, new)
    with pytest.raises(UserError, match=message) as error:
        choose(folder, "voc").load("train")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_sizes_the_other_way_round_speak_of_exif(tmp_path):
    folder = copy_of("voc", tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 24)).save(folder / "JPEGImages/a.jpg", exif=exif)
    with pytest.raises(AnnotationError, match="has 32 and 24 .*EXIF"):
        read_instances(folder, "train")


@pytest.mark.parametrize("size", ["<width>0</width>", "<width></width>", ""])
def test_a_size_that_is_not_said_is_that_of_the_picture(damaged, size):
    part = read_instances(damaged("voc", FILE, "<width>32</width>", size), "train")
    assert (part.images[0]["height"], part.images[0]["width"]) == (24, 32)


def test_the_first_pixel_is_1_or_0_as_asked(tmp_path):
    folder = copy_of("voc", tmp_path)
    (from_one,), (from_zero,) = (
        [a["bbox"] for a in read_instances(folder, "val", name).annotations] for name in ("voc", "voc0")
    )
    assert (from_one, from_zero) == ([8, 0, 16, 24], [9, 1, 15, 23])


def test_a_name_of_another_picture_is_replaced_by_that_beside_the_file(tmp_path):
    for name in ("a.xml", "a.jpg"):
        folder = {"a.xml": "Annotations", "a.jpg": "JPEGImages"}[name]
        shutil.copy(FORMATS / "voc" / folder / name, tmp_path / name)
    text = (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_text(text.replace("<filename>a.jpg", "<filename>C:\\old\\IMG_1.JPG"))
    assert objects_of(read_instances(tmp_path)) == {"a": TRUTH["a"]}


def test_marks_are_kept_and_other_shapes_counted(damaged):
    more = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part><polygon><x1>1</x1></polygon></object>"
    part = read_instances(damaged("voc", FILE, "</object>", more), "train")
    assert objects_of(part) == {"a": TRUTH["a"]}
    assert ["truncated" in a for a in part.annotations] == [False, True]
    assert [note.partition(":")[0] for note in part.notes] == [
        "polygons left out, boxes kept",
        "parts of objects left out",
    ]


def test_a_list_names_files_that_exist(damaged):
    folder = damaged("voc", "ImageSets/Main/train.txt", "a", "c")
    with pytest.raises(AnnotationError, match=r"train\.txt: no Annotations/c\.xml; restore it"):
        read_instances(folder, "train")


def test_a_name_that_a_list_has_twice_is_refused(damaged):
    folder = damaged("voc", "ImageSets/Main/train.txt", "a\n", "a\na\n")
    with pytest.raises(
        AnnotationError, match="its picture JPEGImages/a.jpg is also the picture of another file of train"
    ):
        read_instances(folder, "train")


def test_files_without_partner_are_counted(tmp_path):
    folder = copy_of("voc0", tmp_path)
    (folder / "JPEGImages/a.jpg").unlink()
    Image.new("RGB", (4, 4)).save(folder / "JPEGImages/c.jpg")
    part = read_instances(folder, format="voc0")
    assert objects_of(part) == {"b": TRUTH["b"]}
    assert part.notes == (
        "XML files without picture, left out: 1 (Annotations/a.xml)",
        "pictures without XML file, left out: 1 (JPEGImages/c.jpg)",
    )


def test_classes_of_a_list_keep_its_order_and_others_are_refused(damaged):
    folder = damaged("voc", "labels.txt", "", "dog\ncat\n")
    assert [category["name"] for category in read_instances(folder, "val").categories] == ["dog", "cat"]
    (folder / "labels.txt").write_text("dog\n")
    with pytest.raises(
        AnnotationError, match=r"a\.xml: object 1: the class 'cat' is not in the list of .*: dog; add it"
    ):
        read_instances(folder, "train")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_declared_encodings_are_read(tmp_path, encoding):
    path = tmp_path / "a.xml"
    declared = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    path.write_bytes(f'<?xml version="1.0" encoding="{declared}"?><annotation>é</annotation>'.encode(encoding))
    assert parse_xml(path).text == "é"


def test_an_undeclared_encoding_is_a_fault_and_depth_is_none(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes("<annotation>é</annotation>".encode("latin-1"))
    with pytest.raises(UserError, match="not XML: not well-formed .*declare its encoding"):
        parse_xml(path)
    path.write_text("<a>" * 100_000 + "</a>" * 100_000)
    assert parse_xml(path).tag == "a"

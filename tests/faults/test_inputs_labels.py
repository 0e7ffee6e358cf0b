"""Label maps as people make them: what is sound is read, and what is not is named with the setting or the remedy."""

import re

import label_files
import numpy as np
import pytest
import tifffile
from PIL import Image

import pe_spatial.data  # noqa: F401 - registers the loaders
import pe_spatial.segmentation  # noqa: F401 - registers the datasets and their checks
from pe_spatial.common.errors import AnnotationError, ConfigError, OptionError, UnreadableFile
from pe_spatial.data import LoadImage, pairs
from pe_spatial.doctor import ExaminationOptions, examine
from pe_spatial.segmentation import LabelFormat, SegmentationFolder

STEPS = [{"type": "LoadImage"}, {"type": "LoadSegmentation"}, {"type": "PackSample"}]
SIZE = (24, 24)


def scene(seed=0, values=(0, 1, 2)):
    """Rectangles of each value [24, 24]."""
    random = np.random.default_rng(seed)
    labels = np.full(SIZE, values[0], np.uint8)
    for value in values[1:]:
        top, left = random.integers(0, 10, 2)
        labels[top : top + 12, left : left + 9] = value
    return labels


def folder(root, labels, classes="[road, tree, car]", extra="", name="{}.png", image="{}.png"):
    """A dataset of pictures of noise, from label maps or from functions that write one."""
    for number, content in enumerate(labels):
        label_files.save_image(root / "images" / image.format(f"{number:03}"), SIZE, seed=number)
        path = root / "labels" / name.format(f"{number:03}")
        path.parent.mkdir(exist_ok=True)
        if callable(content):
            content(path)
        else:
            Image.fromarray(content).save(path)
    (root / "data.yaml").write_text(f"classes: {classes}\nimages: {{t: images}}\nlabels: {{t: labels}}\n{extra}\n")
    return {
        "type": "SegmentationFolder",
        "ann_file": "data.yaml",
        "split": "t",
        "data_root": str(root),
        "pipeline": STEPS,
    }


def dataset(config):
    return SegmentationFolder(**{key: value for key, value in config.items() if key != "type"})


def labels_of(config):
    loaded = dataset(config)
    return [loaded[index]["data_samples"].gt_sem_seg.data[0].numpy() for index in range(len(loaded))]


def findings(config, *levels):
    report = examine({"train_dataloader": {"dataset": config}}, ExaminationOptions())[0]
    return "\n".join(report.findings.lines(levels or ("error", "warning", "note")))


def test_a_sound_folder_has_no_finding(tmp_path):
    labels = [scene(seed) for seed in range(6)]
    config = folder(tmp_path, labels)
    assert all((found == truth).all() for found, truth in zip(labels_of(config), labels, strict=True))
    assert findings(config) == ""


# --- masks of 0 and 255 -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("empty", [0, 1, 5])
@pytest.mark.parametrize("classes", ["[bg, fg]", "[bg, fg, other]"])
def test_masks_of_0_and_255_are_found_also_where_some_are_empty(tmp_path, empty, classes):
    masks = [scene(seed, (0, 255) if seed >= empty else (0, 0)) for seed in range(6)]
    assert "error: binary masks of 0 and 255" in findings(folder(tmp_path, masks, classes), "error")


def test_borders_of_no_label_are_no_binary_masks(tmp_path):
    labels = [scene(seed, (0, 255)) for seed in range(5)] + [scene(9, (0, 1, 255))]
    assert "binary" not in findings(folder(tmp_path, labels, "[bg, fg]"))


# --- nothing to learn, and contradictions -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("classes", "extra", "message"),
    [
        ("[fg]", "zero_is_ignored: true", "nothing to learn: 'fg' is the only class"),
        ("[fg]", "", "nothing to learn"),
        ("{fg: [255, 0, 0]}", "ignore: [[0, 0, 0]]", "nothing to learn"),
        ("{0: fg}", "", "nothing to learn"),
        ("[road, tree]", "ignore: [0]", "ignore contains 0, which is also the value of the class 'road'"),
        ("[road, tree]", "ignore: [255, 1]", "ignore contains 1, which is also the value of the class 'tree'"),
        ("[road, tree]", "zero_is_ignored: true\nignore: [2]", "ignore contains 2, .* 'tree'"),
        (
            "{a: [1, 2, 3], b: [3, 2, 1]}",
            "ignore: [[3, 2, 1]]",
            r"ignore contains \[3, 2, 1\], .*color of the class 'b'",
        ),
        ("[road, tree]", "ignore: [true]", "ignore is"),
        ("{1: road, 2: tree}", "", "the numbers of the classes are 1, 2; .*zero_is_ignored: true"),
        ("{0: road, 2: tree}", "", "the numbers of the classes are 0, 2; they must be 0 to 1 without gaps"),
        ("{road: 0, tree: 0}", "", "classes of different numbers"),
        ("{0: road, 1: 7}", "", "names"),
        ("{'1': road, '2': tree}", "", "the numbers of the classes are 1, 2"),
        ("{road: null, tree: null}", "", r"road is None; it must be \[r, g, b\]"),
        ("[road, tree]", "value_range: 4095", r"value_range 4095 is not a pair of numbers"),
        ("[road, tree]", "value_range: [9, 2]", r"value_range \[9, 2\] is not a pair"),
        ("[road, tree]", "bands: [0, 1, 2]", r"bands \[0, 1, 2\] must be the numbers of three bands"),
        ("[road, tree]", "label_stem_end: 7", "label_stem_end is 7; it must be text"),
    ],
)
def test_a_class_list_that_contradicts_itself(tmp_path, classes, extra, message):
    config = folder(tmp_path, [scene()], classes, extra)
    with pytest.raises(ConfigError, match=rf"data\.yaml: (?s:.)*{message}"):
        dataset(config)
    assert "the dataset cannot be loaded" in findings(config, "error")


@pytest.mark.parametrize("extra", ["zero_is_ignored: true\nignore: [0]", "ignore: [255, 9]"])
def test_what_only_repeats_itself_is_no_contradiction(tmp_path, extra):
    assert len(dataset(folder(tmp_path, [scene(values=(1, 2))], "[road, tree]", extra))) == 1


def test_one_class_in_all_files_is_nothing_to_learn(tmp_path):
    labels = [scene(seed, (255, 1)) for seed in range(6)]
    assert "error: nothing to learn" in findings(folder(tmp_path, labels), "error")


@pytest.mark.parametrize(
    "classes",
    [
        "{0: road, 1: tree, 2: car}",
        "{2: car, 0: road, 1: tree}",
        "{tree: 1, car: 2, road: 0}",
        "{'0': road, '1': tree, '2': car}",
    ],
)
def test_classes_by_number_are_read(tmp_path, classes):
    loaded = dataset(folder(tmp_path, [scene()], classes))
    assert loaded.metainfo["classes"] == ("road", "tree", "car")


# --- colors -----------------------------------------------------------------------------------------------------------
COLORS = np.array([[255, 0, 0], [0, 128, 255], [0, 0, 1]], np.uint8)
NAMED = "{road: [255, 0, 0], tree: [0, 128, 255], car: [0, 0, 1]}"


def in_palette(labels, order, colors=COLORS):
    """Writes labels as a palette file in which the classes stand in another order."""

    def write(path):
        image = Image.fromarray(np.argsort(order)[labels].astype(np.uint8))
        image.putpalette(colors[list(order)].tobytes())
        image.save(path)

    return write


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_palette_in_any_order_is_read_by_its_colors(tmp_path, order):
    config = folder(tmp_path, [in_palette(scene(), order)], NAMED)
    assert (labels_of(config)[0] == scene()).all()
    assert "class list" not in findings(config)


def test_a_palette_of_other_colors_is_refused(tmp_path):
    config = folder(tmp_path, [in_palette(scene(), (0, 1, 2), COLORS[::-1] // 2 + 3)], NAMED)
    with pytest.raises(AnnotationError, match=r"not among the colors of the 3 classes .*of the pixels.*palette"):
        labels_of(config)


def test_black_and_white_classes_in_a_gray_file(tmp_path):
    config = folder(tmp_path, [scene(1, (0, 255)), scene(2, (0, 255))], "{bg: [0, 0, 0], fg: [255, 255, 255]}")
    assert (labels_of(config)[0] == scene(1, (0, 1))).all()
    assert "binary" not in findings(config)


# --- values that a resize or a compression made -----------------------------------------------------------------------
def smooth(labels, factor=3):
    return np.asarray(Image.fromarray(labels).resize((8, 8)).resize(SIZE, Image.Resampling.BICUBIC))


def as_jpeg(labels):
    return lambda path: Image.fromarray(labels).save(path, format="JPEG", quality=60)


@pytest.mark.parametrize("values", [(0, 255), (0, 100, 200), (10, 90)])
def test_smoothed_masks_are_refused_with_their_share(tmp_path, values):
    config = folder(tmp_path, [smooth(scene(3, values))], "[bg, fg]", "ignore: [255]")
    with pytest.raises(
        AnnotationError, match=r"\d% of the pixels have \d+ such values, which come from smooth resizing or JPEG; save"
    ):
        labels_of(config)


def test_smoothed_edges_within_the_class_list_are_found(tmp_path):
    names = str([f"class {number}" for number in range(151)]).replace("'", "")
    labels = [scene(seed, (0, 70, 150)) for seed in range(6)]
    smoothed = folder(tmp_path / "smooth", [smooth(each) for each in labels], names)
    said = findings(smoothed, "error")
    assert "error: label maps whose edges were smoothed" in said
    assert all(float(share) <= 100 for share in re.findall(r"([\d.]+)% of the pixels lie between", said))
    assert "smoothed" not in findings(folder(tmp_path / "sharp", labels, names))


def test_thin_borders_between_classes_are_not_smooth(tmp_path):
    labels = scene(values=(0, 2))
    labels[:, 12], labels[12] = 1, 1
    assert "smoothed" not in findings(folder(tmp_path, [labels] * 6))


def test_a_jpeg_by_another_name_is_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="it is a JPEG, whose compression changes"):
        labels_of(folder(tmp_path, [as_jpeg(scene())]))


# --- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"compression": "zlib"}, {"bigtiff": True}], ids=str)
def test_tiffs_of_both_byte_orders_and_of_all_integers(tmp_path, kind, order, layout):
    write = lambda path: tifffile.imwrite(path, scene().astype(kind), byteorder=order, **layout)  # noqa: E731
    assert (labels_of(folder(tmp_path, [write], name="{}.tif"))[0] == scene()).all()


@pytest.mark.parametrize(("kind", "value"), [(np.uint32, 2**32 - 1), (np.int32, 2**31 - 1), (np.int32, -(2**31))])
def test_values_that_no_table_holds_are_named(tmp_path, kind, value):
    write = lambda path: tifffile.imwrite(path, np.full(SIZE, value, kind))  # noqa: E731
    with pytest.raises(AnnotationError, match=rf"value {value} \(576 pixels\) is outside the class list"):
        labels_of(folder(tmp_path, [write], name="{}.tif"))


def test_a_second_page_is_not_left_out_in_silence(tmp_path):
    write = lambda path: tifffile.imwrite(path, np.stack([scene(1), scene(2)]), photometric="minisblack")  # noqa: E731
    with pytest.raises(UnreadableFile, match="contains 2 pictures"):
        labels_of(folder(tmp_path, [write], name="{}.tiff"))


@pytest.mark.parametrize(
    ("image", "label", "setting"),
    [
        ("{}.jpg", "{}_mask.png", "label_stem_end: _mask"),
        ("{}.jpg", "label_{}.png", "label_stem_start: label_"),
        ("{}.png", "mask-{}-v2.png", "label_stem_start: mask- and label_stem_end: -v2"),
        ("img_{}.png", "gt_{}.png", "image_stem_start: img_ and label_stem_start: gt_"),
        ("{}_rgb.png", "{}_seg.png", "image_stem_end: _rgb and label_stem_end: _seg"),
    ],
)
def test_affixes_are_found_and_what_is_proposed_works(tmp_path, image, label, setting):
    config = folder(tmp_path, [scene(seed) for seed in range(3)], name=label, image=image)
    with pytest.raises(OptionError, match=f"no label map for 3 .*: set {setting}"):
        dataset(config)
    extra = setting.replace(" and ", "\n")
    config = folder(tmp_path, [scene(seed) for seed in range(3)], extra=extra, name=label, image=image)
    assert len(dataset(config)) == 3


@pytest.mark.parametrize("suffix", ["jpg", "npy", "gif", "webp"])
def test_labels_of_another_suffix_are_named(tmp_path, suffix):
    config = folder(tmp_path, [lambda path: path.write_bytes(b"x")] * 2, name="{}." + suffix)
    with pytest.raises(
        OptionError, match=rf"000\.{suffix} lies there, and label maps are read from \.png, \.bmp, \.tif"
    ):
        dataset(config)


def test_what_is_not_read_is_counted(tmp_path, monkeypatch):
    config = folder(tmp_path, [scene()])
    for name in ("images/notes.txt", "images/a.csv", "labels/b.json"):
        (tmp_path / name).write_text("")
    said = []
    monkeypatch.setattr(pairs, "print_log", lambda text, **_: said.append(text))
    dataset(config)
    assert [text.partition("names: ")[2] for text in said] == ["2 (1 .csv, 1 .txt)", "1 (1 .json)"]


# --- EXIF -------------------------------------------------------------------------------------------------------------
def turned(path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 8])
def test_labels_of_the_pixels_as_stored_speak_of_exif(tmp_path, orientation):
    config = folder(tmp_path, [scene()[:10]])
    turned(tmp_path / "images/000.png", (10, 24), orientation)
    with pytest.raises(AnnotationError, match=rf"EXIF turns the image \(orientation {orientation}\).*apply_exif=False"):
        labels_of(config)


@pytest.mark.parametrize(("orientation", "is_said"), [(1, False), (3, True), (6, True)])
def test_a_turn_that_no_size_shows_is_a_warning(tmp_path, orientation, is_said):
    config = folder(tmp_path, [scene()])
    turned(tmp_path / "images/000.png", SIZE, orientation)
    assert ("images that EXIF rotates: check" in findings(config, "warning")) == is_said


def test_another_size_without_exif_does_not_speak_of_it(tmp_path):
    config = folder(tmp_path, [scene()[:10]])
    with pytest.raises(AnnotationError, match=r"both must have one size") as caught:
        labels_of(config)
    assert "EXIF" not in str(caught.value)


# --- few gray levels --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "says"),
    [
        (lambda noise: noise * 16, "warning: pictures whose range of values is guessed.*12 bits|0…4095"),
        (lambda noise: noise * 0 + 3, "nearly black"),
        (lambda noise: (noise // 16) * 4096 + 4000, "pictures of few gray levels"),
    ],
)
def test_the_doctor_doubts_pictures_of_which_little_is_left(tmp_path, values, says):
    config = folder(tmp_path, [scene(seed) for seed in range(2)])
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, SIZE).astype(np.uint16)
        Image.fromarray(values(noise).astype(np.uint16)).save(tmp_path / f"images/{number:03}.png")
    assert re.search(says, findings(config, "warning"), re.DOTALL)


# --- the rule of the dataset's pictures ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("value_range: [0, 4095]\nbands: [4, 3, 2]", lambda v: v[..., [3, 2, 1]] >> 4),
        ("value_range: [0, 65535]\nbands: [2]", lambda v: v[..., [1, 1, 1]] >> 8),
    ],
)
def test_a_class_list_says_how_its_pictures_are_shown(tmp_path, extra, expected):
    values = np.random.default_rng(0).integers(0, 4096, (*SIZE, 4)).astype(np.uint16)
    config = folder(tmp_path, [scene()], extra=extra, image="{}.tif")
    tifffile.imwrite(tmp_path / "images/000.tif", values, photometric="minisblack", planarconfig="contig")
    loaded = dataset(config)
    assert (loaded[0]["inputs"].permute(1, 2, 0).numpy() == expected(values)).all()
    assert "guessed" not in findings(config)
    steps = [{**STEPS[0], "bands": [1, 2, 3]}, *STEPS[1:]]
    with pytest.raises(OptionError, match=r"bands is \[1, 2, 3\] in LoadImage and .* in .*data.yaml"):
        dataset({**config, "pipeline": steps})
    # what a checkpoint remembers of the dataset makes a prediction read pictures in the same way
    step = LoadImage()
    step.adopt_rule({key: list(value) for key, value in loaded.metainfo.items() if key in ("value_range", "bands")})
    assert (step({"img_path": str(tmp_path / "images/000.tif")})["img"] == loaded[0]["inputs"]).all()


def test_a_class_has_one_meaning_in_a_format_that_counts():
    assert LabelFormat.counting(tuple(f"c{number}" for number in range(255)), zero_is_ignored=True).meaning[255] == 254

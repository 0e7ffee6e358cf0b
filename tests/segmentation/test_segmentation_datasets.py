"""Label files to label maps: numberings, layouts, class lists, and what is said about wrong ones."""

import pickle
from pathlib import Path

import label_files
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from official_sizes import detectron2
from torchvision import tv_tensors

import pe_spatial.data  # noqa: F401 - registers the loaders
import pe_spatial.detection  # noqa: F401 - registers CocoInstances
from pe_spatial.common.errors import AnnotationError, ConfigError, UnreadableFile
from pe_spatial.common.pictures import read_indices
from pe_spatial.segmentation import (
    ADE20K,
    Cityscapes,
    COCOStuff,
    LabelFormat,
    PascalVOC,
    SegmentationFolder,
)
from pe_spatial.segmentation.class_list import read_class_list
from pe_spatial.segmentation.transforms import MixedCrop, RandomScale
from pe_spatial.training.config import load_config

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
STEPS = [{"type": "LoadImage"}, {"type": "LoadSegmentation"}, {"type": "PackSample"}]
ABC = LabelFormat.counting(("a", "b", "c"))


def labels_of(dataset, index=0):
    return dataset[index]["data_samples"].gt_sem_seg.data


# --- values -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("zero_is_ignored", [False, True])
def test_what_was_written_is_read(tmp_path, zero_is_ignored):
    form = LabelFormat.counting(tuple("abcde"), zero_is_ignored)
    truth = np.random.default_rng(0).choice([0, 1, 2, 3, 4, 255], (6, 7))
    values = np.where(truth == 255, 0, truth + 1) if zero_is_ignored else truth
    for mode, kind in ((None, np.uint8), ("P", np.uint8), (None, np.uint16)):
        path = label_files.save(tmp_path / "x.png", values.astype(kind), mode)
        read = form.read(path)
        assert read.dtype == np.int64
        assert (read == truth).all()


def test_colors_are_read_as_the_classes_that_have_them(tmp_path):
    colors = np.array([[255, 0, 0], [0, 128, 255], [0, 0, 1], [224, 224, 192]], np.uint8)
    form = LabelFormat.counting(
        ("a", "b", "c"), colors={tuple(c): n for n, c in zip((0, 1, 2, 255), colors.tolist(), strict=True)}
    )
    truth = np.random.default_rng(1).integers(0, 4, (5, 9))
    path = label_files.save(tmp_path / "x.png", colors[truth])
    assert (form.read(path) == np.where(truth == 3, 255, truth)).all()
    label_files.save(path, np.full((2, 3, 3), 7, np.uint8))
    with pytest.raises(
        AnnotationError, match=r"x\.png: color \(7, 7, 7\) \(6 pixels\) is not among the colors of the 3"
    ):
        form.read(path)
    with pytest.raises(AnnotationError, match="contains colors, not class indices"):
        ABC.read(path)


@pytest.mark.parametrize(
    ("classes", "values", "message"),
    [
        (
            3,
            [[0, 7, 7], [9, 1, 2]],
            r"x\.png: values 7 \(2 pixels\), 9 \(1 pixels\) are outside the class list of 3 .*0…2",
        ),
        (3, [[1, 2, 3], [1, 1, 255]], r"value 3 \(1 pixels\) is outside .* count classes from 1: set zero_is_ignored"),
        (3, [[0, 0, 4]], "correct the file or the class list, or mark such pixels 255"),
    ],
)
def test_a_value_outside_the_class_list_is_named_and_counted(tmp_path, classes, values, message):
    path = label_files.save(tmp_path / "x.png", np.array(values, np.uint8))
    with pytest.raises(AnnotationError, match=message):
        LabelFormat.counting(tuple("abcdefgh")[:classes]).read(path)


def test_a_binary_mask_of_0_and_255_is_told_apart_from_missing_labels(tmp_path):
    path = label_files.save(tmp_path / "x.png", np.array([[0, 255]], np.uint8))
    form = LabelFormat.counting(("background", "object"), ignored=())
    with pytest.raises(AnnotationError, match="a binary mask of 0 and 255: save it with the values 0 and 1"):
        form.read(path)


def test_a_class_list_has_between_one_class_and_255():
    with pytest.raises(AnnotationError, match="the class list has 0 classes; give 1 to 255"):
        LabelFormat.counting(())
    with pytest.raises(AnnotationError, match="256 classes"):
        LabelFormat.counting([str(n) for n in range(256)])
    with pytest.raises(AnnotationError, match="names 'a' more than once"):
        LabelFormat.counting(("a", "b", "a"))


def test_files_that_are_no_labels_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    with pytest.raises(UnreadableFile, match=r"broken\.png cannot be read"):
        read_indices(tmp_path / "broken.png")
    with pytest.raises(UnreadableFile, match=r"gone\.png cannot be read: no such file"):
        read_indices(tmp_path / "gone.png")


# --- numberings of the published datasets ----------------------------------------------------------------------------
def test_ade_counts_from_one():
    form = ADE20K.label_format
    assert form.meaning[0] == 255
    assert [form.classes[form.meaning[value]] for value in (1, 2, 3, 13, 150)] == [
        "wall",
        "building",
        "sky",
        "person",
        "flag",
    ]
    assert 151 not in form.meaning


def test_cityscapes_ids_are_those_of_the_scripts():
    form = Cityscapes.formats["ids"]
    names = {7: "road", 11: "building", 19: "traffic light", 24: "person", 25: "rider", 31: "train", 33: "bicycle"}
    assert {value: form.classes[form.meaning[value]] for value in names} == names
    assert sorted(v for v, label in form.meaning.items() if label == 255) == [
        *(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30),
        255,
    ]
    assert sorted(label for label in form.meaning.values() if label != 255) == list(range(19))


def test_coco_stuff_leaves_out_the_unused_ids():
    form = COCOStuff.formats["ids"]
    # value = category id - 1 of the published list
    names = {0: "person", 10: "fire hydrant", 12: "stop sign", 89: "toothbrush", 91: "banner", 181: "wood"}
    assert {value: form.classes[form.meaning[value]] for value in names} == names
    assert 11 not in form.meaning
    assert 182 not in form.meaning
    assert sorted(label for label in form.meaning.values() if label != 255) == list(range(171))


@pytest.mark.parametrize("kind", [ADE20K, Cityscapes, COCOStuff, PascalVOC])
def test_every_class_has_a_name_and_a_color_of_its_own(kind):
    classes, colors = kind.METAINFO["classes"], kind.METAINFO["palette"]
    assert len(classes) == len(set(classes)) == len(colors)
    if kind in (Cityscapes, PascalVOC):  # the published colors of the others repeat
        assert len(set(map(tuple, colors))) == len(colors)
    assert all(0 <= channel <= 255 for color in colors for channel in color)


def test_an_unknown_numbering_is_refused():
    with pytest.raises(ValueError, match="numbering 'labels' is not one of ids, train_ids"):
        Cityscapes(numbering="labels")


# --- layouts: the base configs find what lies in the folders of the archives ------------------------------------------
LAYOUTS = {
    "ade20k": ("ADE20K_ROOT", "images/validation/x.jpg", "annotations/validation/x.png", 1, "wall"),
    "cityscapes": (
        "CITYSCAPES_ROOT",
        "leftImg8bit/val/ulm/u_1_leftImg8bit.png",
        "gtFine/val/ulm/u_1_gtFine_labelIds.png",
        7,
        "road",
    ),
    "voc2012": ("VOC_ROOT", "JPEGImages/x.jpg", "SegmentationClass/x.png", 15, "person"),
    "segmentation_folder": ("SEGMENTATION_ROOT", "pictures/x.jpg", "maps/x.png", 2, "car"),
    "coco_stuff": ("COCO_ROOT", "val2017/x.jpg", "stuffthingmaps/val2017/x.png", 181, "wood"),
}


@pytest.mark.parametrize("base", LAYOUTS)
def test_a_base_config_reads_the_layout_of_the_archive(base, tmp_path, monkeypatch):
    variable, image, label, value, name = LAYOUTS[base]
    label_files.save_image(tmp_path / image, (20, 30))
    label_files.save(tmp_path / label, np.full((20, 30), value, np.uint8))
    (tmp_path / "gtFine/val/ulm").mkdir(parents=True, exist_ok=True)
    label_files.save(tmp_path / "gtFine/val/ulm/u_1_gtFine_instanceIds.png", np.zeros((20, 30), np.uint16))
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("x\n")
    (tmp_path / "data.yaml").write_text("classes: [road, tree, car]\nimages: {val: pictures}\nlabels: {val: maps}\n")
    monkeypatch.setenv(variable, str(tmp_path))
    config = load_config(ROOT / "configs" / "_base_" / "datasets" / f"{base}.yaml")
    dataset = DATASETS.build(config.val_dataloader.dataset)
    assert len(dataset) == 1
    labels = labels_of(dataset)
    assert labels.shape == (1, 20, 30)  # the file's resolution, whatever the image was resized to
    assert {dataset.metainfo["classes"][n] for n in labels.unique().tolist()} == {name}


def test_both_numberings_of_cityscapes_agree(tmp_path):
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    folders = {"img_path": str(tmp_path / "images"), "seg_map_path": str(tmp_path / "labels")}
    label_files.save_image(tmp_path / "images/u_leftImg8bit.png", ids.shape)
    label_files.save(tmp_path / "labels/u_gtFine_labelIds.png", ids)
    raw = labels_of(Cityscapes(data_prefix=folders, pipeline=STEPS))
    label_files.save(tmp_path / "labels/u_gtFine_labelTrainIds.png", raw[0].numpy().astype(np.uint8))
    assert (labels_of(Cityscapes(data_prefix=folders, pipeline=STEPS, numbering="train_ids")) == raw).all()


def test_voc_says_which_names_lack_a_file(tmp_path):
    label_files.save_image(tmp_path / "JPEGImages/a.jpg", (4, 4))
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "train.txt").write_text("a\nb\n")
    settings = {
        "data_root": str(tmp_path),
        "ann_file": "train.txt",
        "data_prefix": {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"},
    }
    with pytest.raises(AnnotationError, match=r"3 files of its 2 names are missing: .*b\.jpg.*; restore"):
        PascalVOC(**settings)
    with pytest.raises(AnnotationError, match="no such list"):
        PascalVOC(**{**settings, "ann_file": "val.txt"})


# --- a folder of your own ---------------------------------------------------------------------------------------------
def test_a_folder_becomes_packed_samples(tmp_path):
    truth = np.random.default_rng(2).integers(0, 3, (2, 8, 12)).astype(np.uint8)
    dataset = SegmentationFolder(str(label_files.folder(tmp_path, truth)), "train", pipeline=STEPS)
    assert dataset.metainfo["classes"] == ("a", "b", "c")
    assert np.shape(dataset.metainfo["palette"]) == (3, 3)
    for index, expected in enumerate(truth):
        labels = labels_of(dataset, index)
        assert labels.dtype == torch.int64
        assert (labels[0].numpy() == expected).all()
    # the class list is not stored again in every record
    assert len(pickle.dumps(dataset.get_data_info(0)["label_format"])) > dataset.data_address[0] / 2
    assert b"label_format" not in dataset.data_bytes.tobytes()


def test_the_entries_of_a_class_list_do_what_they_say(tmp_path):
    label_files.save_image(tmp_path / "pictures/sub/1.png", (1, 4))
    label_files.save(tmp_path / "masks/sub/1_mask.png", np.array([[0, 1, 2, 99]], np.uint8))
    label_files.save(tmp_path / "masks/sub/1_preview.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "data.yaml").write_text(
        "classes: {cat: [255, 0, 0], dog: [0, 255, 0]}\nimages: {val: pictures}\nlabels: {val: masks}\n"
        "zero_is_ignored: true\nignore: [99]\nlabel_stem_end: _mask\n"
    )
    dataset = SegmentationFolder("data.yaml", "val", data_root=str(tmp_path), pipeline=STEPS)
    assert labels_of(dataset).tolist() == [[[255, 0, 1, 255]]]
    assert dataset.metainfo["palette"] == [[255, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: []", "the class list has 0 classes"),
        ("classes: [a, a]", "names 'a' more than once"),
        ("classes: [a, true]", "classes is .*True.*; it must be names"),
        ("classes: {a: [1, 2, 3], b: [1, 2, 3]}", "two classes have the same color"),
        ("classes: {a: [1, 2]}", r"a is \[1, 2\]; it must be \[r, g, b\] of 0…255"),
        ("classes: [a]\nclases: [b]", "unknown entry 'clases'; did you mean 'classes'"),
        ("classes: [a]\nimages: pictures", "images is 'pictures'; it must be folders by split"),
        ("classes: [a]\nignore: 255", "ignore is 255; it must be a list"),
        ("classes: [a]\nzero_is_ignored: 1", "zero_is_ignored is 1; it must be true or false"),
        ("[a, b]", "list instead of entries"),
        ("classes: [a", "not YAML"),
        ("classes: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_a_wrong_class_list_says_what_is_wrong(tmp_path, text, message):
    given = [line.partition(":")[0] for line in text.splitlines()]
    for key in ("images", "labels"):
        if key not in given and text.startswith("classes"):
            text += f"\n{key}: {{train: x}}"
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"data\.yaml: (?s:.)*{message}"):
        read_class_list(tmp_path / "data.yaml")


def test_a_missing_class_list_entry_or_split_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file; write a YAML file with classes, images and labels"):
        SegmentationFolder(str(tmp_path / "data.yaml"), "train")
    (tmp_path / "data.yaml").write_text("classes: [a]\nimages: {train: x}\n")
    with pytest.raises(ConfigError, match="no entry labels"):
        SegmentationFolder(str(tmp_path / "data.yaml"), "train")
    path = label_files.folder(tmp_path, [np.zeros((4, 4), np.uint8)])
    with pytest.raises(ConfigError, match="images has no split 'val'; it knows: train"):
        SegmentationFolder(str(path), "val")


def test_a_missing_label_map_is_named(tmp_path):
    path = label_files.folder(tmp_path, [np.zeros((4, 4), np.uint8)] * 3)
    (tmp_path / "labels" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"no label map for 1 of 3 names \(1\) in .*labels"):
        SegmentationFolder(str(path), "train")


def test_a_label_map_of_another_size_is_named(tmp_path):
    path = label_files.folder(tmp_path, [np.zeros((4, 6), np.uint8)])
    label_files.save(tmp_path / "labels/0.png", np.zeros((6, 4), np.uint8))
    dataset = SegmentationFolder(str(path), "train", pipeline=STEPS)
    with pytest.raises(AnnotationError, match=r"0\.png is \(6, 4\) \(H, W\) but its image .*0\.jpg is \(4, 6\)"):
        dataset[0]
    with pytest.raises(ValueError, match="put LoadImage before it"):
        SegmentationFolder(str(path), "train", pipeline=STEPS[1:])[0]


def test_an_unreadable_image_can_be_skipped_but_a_wrong_label_cannot(tmp_path):
    path = label_files.folder(tmp_path, [np.zeros((4, 4), np.uint8)] * 2)
    (tmp_path / "images/0.jpg").write_bytes(b"no image")
    dataset = SegmentationFolder(str(path), "train", pipeline=STEPS, unreadable="skip")
    assert dataset[0]["data_samples"].img_path.endswith("1.jpg")
    assert dataset.unreadable_indices == [0]
    label_files.save(tmp_path / "labels/1.png", np.full((4, 4), 9, np.uint8))
    with pytest.raises(AnnotationError, match=r"value 9 \(16 pixels\)"):
        dataset[1]


# --- the crop ---------------------------------------------------------------------------------------------------------
def test_a_mixed_crop_avoids_places_where_one_class_covers_nearly_all():
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    labels[:, :, 56:] = 1  # only crops at the right edge hold two classes
    sample = {"img": tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8)), "sem_seg": tv_tensors.Mask(labels)}

    def share_of_mixed(largest_share):
        crop = MixedCrop([16, 16], largest_share)
        crops = [crop(sample)["sem_seg"] for _ in range(100)]
        assert all(c.shape == (1, 16, 16) for c in crops)
        return sum(len(c.unique()) == 2 for c in crops)

    torch.manual_seed(0)
    assert share_of_mixed(0.75) > 2 * share_of_mixed(1.0)
    assert MixedCrop(16).size == MixedCrop([16, 16]).size
    with pytest.raises(ValueError, match="largest_share 75 is not a share"):
        MixedCrop([16, 16], 75)
    with pytest.raises(ValueError, match="MixedCrop needs a label map"):
        MixedCrop([16, 16])({"img": sample["img"]})


# --- the scale --------------------------------------------------------------------------------------------------------
def test_a_random_scale_resizes_image_and_labels_by_the_shorter_side():
    def sizes(height, width, **options):
        labels = tv_tensors.Mask(torch.randint(0, 2, (1, height, width)) * 7)
        scaled = RandomScale(16, **options)({"img": tv_tensors.Image(labels.to(torch.uint8)), "sem_seg": labels})
        assert scaled["img"].shape == scaled["sem_seg"].shape
        assert set(scaled["sem_seg"].unique().tolist()) <= {0, 7}  # no class between two others
        return tuple(scaled["img"].shape[-2:])

    assert sizes(20, 40, scale_range=(1, 1)) == (16, 32)
    assert sizes(40, 20, scale_range=(2, 2)) == (64, 32)
    assert sizes(10, 80, scale_range=(1, 1)) == (8, 64)  # longer than 4 times its width
    shorter = [min(sizes(20, 40)) for _ in range(50)]
    assert 8 <= min(shorter) < 14 and 20 < max(shorter) <= 32
    for wrong in ({"size": 0}, {"size": 16, "scale_range": (2, 1)}, {"size": 16, "max_aspect": 0.5}):
        with pytest.raises(ValueError, match="must be at least one pixel"):
            RandomScale(**wrong)


def test_sizes_of_a_random_scale_are_mmsegs():
    """Its `RandomResize` truncates the scaled bounds and rounds the sides."""
    image = tv_tensors.Image(torch.zeros(3, 301, 417, dtype=torch.uint8))
    for seed in range(50):
        torch.manual_seed(seed)
        factor = float(torch.empty(()).uniform_(0.5, 2.0))
        torch.manual_seed(seed)
        expected = detectron2(301, 417, int(512 * factor), int(2048 * factor))
        assert tuple(RandomScale(512).make_params([image])["size"]) == expected


# --- real data --------------------------------------------------------------------------------------------------------
def test_the_ade_samples_show_what_their_labels_say():
    folder = SHARED / "ade_sample"
    if not folder.is_dir():
        pytest.skip("../shared/data/ade_sample is not there")
    prefix = {"img_path": str(folder / "images"), "seg_map_path": str(folder / "annotations")}
    dataset = ADE20K(data_prefix=prefix, pipeline=STEPS)
    classes = dataset.metainfo["classes"]
    found = []
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        assert sample.gt_sem_seg.data.shape[1:] == sample.ori_shape
        found.append({classes[n] for n in sample.gt_sem_seg.data.unique().tolist() if n != 255})
    # what the pictures show
    common = {"sky", "building", "tree", "wall"}
    assert found == [
        common | {"grass", "plant", "road"},
        common | {"plant", "earth"},
        common | {"road", "sidewalk", "escalator", "car", "bus", "van", "streetlight", "signboard"},
    ]

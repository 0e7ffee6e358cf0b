import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision import tv_tensors

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.data import LoadImage, LoadInstances, decode_mask, encode_masks

REAL = Path(__file__).parents[2].parent / "shared" / "data"
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


# --- images -----------------------------------------------------------------------------------------------------------
def test_the_recorded_size_is_that_of_the_turned_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned by 90 degrees clockwise
    path = save(tmp_path / "image.png", Image.fromarray(RGB), exif=exif)
    record = {"img_path": path, "height": 6, "width": 8}
    with pytest.raises(ValueError, match=r"\(8, 6\).*\(6, 8\).*apply_exif=False"):
        LoadImage()(record)
    assert LoadImage(apply_exif=False)(record)["ori_shape"] == (6, 8)


def test_an_unreadable_image_is_named(tmp_path):
    with pytest.raises(UnreadableFile, match="missing.png cannot be read: no such file"):
        LoadImage()({"img_path": str(tmp_path / "missing.png")})


def test_an_image_in_memory_needs_no_file():
    for picture in (Image.fromarray(RGB), RGB, torch.from_numpy(RGB).permute(2, 0, 1)):
        sample = LoadImage()({"img": picture})
        assert sample["ori_shape"] == (6, 8)
        assert (sample["img"].permute(1, 2, 0).numpy() == RGB).all()


# --- instances --------------------------------------------------------------------------------------------------------
POLYGON = [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]]


def sample_with(*instances):
    return LoadImage()({"img": RGB, "img_path": "scene.png", "instances": list(instances)})


def instance(**changes):
    return {"bbox": [2, 1, 6, 5], "label": 3, "mask": POLYGON, "ignore": False, **changes}


def test_polygons_and_both_kinds_of_rle_give_one_mask():
    expected = np.zeros((6, 8), bool)
    expected[1:5, 2:6] = True
    counts = [0]  # column by column, beginning with background
    for value in expected.T.flatten():
        if bool(len(counts) % 2) == bool(value):
            counts.append(0)
        counts[-1] += 1
    plain = {"size": [6, 8], "counts": counts}
    packed = coco_mask.encode(np.asfortranarray(expected.astype(np.uint8)))
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    for segmentation in (POLYGON, plain, packed, text):
        loaded = LoadInstances()(sample_with(instance(mask=segmentation)))
        assert type(loaded["masks"]) is tv_tensors.Mask
        assert loaded["masks"].dtype == torch.bool
        assert (loaded["masks"].numpy() == expected).all()


def test_parts_of_one_object_are_joined():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]]
    assert decode_mask(parts, (6, 8)).sum() == 8


def test_encoding_masks_is_inverted_by_decoding_them():
    rng = np.random.default_rng(0)
    masks = rng.uniform(size=(3, 17, 9)) < np.array([0, 0.3, 1])[:, None, None]
    for mask, rle in zip(masks, encode_masks(torch.from_numpy(masks)), strict=True):
        assert (decode_mask(rle, (17, 9)) == mask).all()
        json.dumps(rle)


def test_boxes_are_clipped_and_typed():
    loaded = LoadInstances(masks=False)(sample_with(instance(bbox=[-3, 2, 99, 5.5])))
    assert isinstance(loaded["boxes"], tv_tensors.BoundingBoxes)
    assert loaded["boxes"].canvas_size == (6, 8)
    assert loaded["boxes"].tolist() == [[0, 2, 8, 5.5]]
    assert loaded["labels"].tolist() == [3]
    assert "instances" not in loaded
    assert "masks" not in loaded


def test_an_image_without_instances_has_empty_tensors():
    loaded = LoadInstances(ignored="keep")(sample_with())
    shapes = {key: tuple(loaded[key].shape) for key in ("boxes", "labels", "masks", "ignored_boxes", "ignored_masks")}
    assert shapes == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 6, 8),
        "ignored_boxes": (0, 4),
        "ignored_masks": (0, 6, 8),
    }


def test_crowds_are_dropped_or_kept_apart():
    sample = sample_with(instance(), instance(bbox=[0, 0, 8, 6], label=1, ignore=True))
    assert LoadInstances()(dict(sample))["labels"].tolist() == [3]
    kept = LoadInstances(ignored="keep")(dict(sample))
    assert kept["labels"].tolist() == [3]
    assert kept["ignored_boxes"].tolist() == [[0, 0, 8, 6]]
    assert kept["ignored_masks"].shape == (1, 6, 8)


@pytest.mark.parametrize("bbox", [[3, 1, 3, 5], [5, 1, 2, 5], [8, 0, 12, 6], [-4, -4, 0, 0]])
def test_boxes_without_area_inside_the_image(bbox):
    sample = sample_with(instance(bbox=bbox), instance())
    with pytest.raises(ValueError, match=r"scene.png.*no area inside the image.*empty='drop'"):
        LoadInstances()(dict(sample))
    assert LoadInstances(empty="drop")(dict(sample))["boxes"].shape == (1, 4)


@pytest.mark.parametrize(
    "mask",
    [
        [[1, 1, 2, 2]],
        [[1, 1, 2, 2, 3, 3, 4]],
        {"size": [8, 6], "counts": [48]},
        {"size": [6, 8], "counts": [5]},
        {"counts": [48]},
        None,
    ],
)
def test_masks_that_cannot_be_decoded(mask):
    with pytest.raises(ValueError, match=r"scene.png: the mask of box \[2, 1, 6, 5\].*give polygons"):
        LoadInstances()(sample_with(instance(mask=mask)))


def test_labels_need_the_size_of_the_image():
    with pytest.raises(ValueError, match="LoadImage before it"):
        LoadInstances()({"img_path": "scene.png", "instances": []})


def test_misspelled_options_are_refused():
    with pytest.raises(ValueError, match="drop, keep"):
        LoadInstances(ignored="apart")
    with pytest.raises(ValueError, match="raise, drop"):
        LoadInstances(empty="keep")


# --- real files -------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not (REAL / "coco_tiny").is_dir(), reason="no real data beside the repository")
def test_real_annotations_load_as_pycocotools_reads_them(capsys):
    coco = COCO(next((REAL / "coco_tiny" / "annotations").glob("*train*.json")))
    capsys.readouterr()  # COCO prints
    crowds = 0
    for image_id, entry in list(coco.imgs.items())[:20]:
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        instances = [
            {
                "bbox": [*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]],
                "label": 0,
                "mask": a["segmentation"],
                "ignore": bool(a["iscrowd"]),
            }
            for a in annotations
        ]
        path = str(REAL / "coco_tiny" / "train2017" / entry["file_name"])
        record = {"img_path": path, "height": entry["height"], "width": entry["width"], "instances": instances}
        loaded = LoadInstances(ignored="keep")(LoadImage()(record))
        for name, crowd in (("masks", 0), ("ignored_masks", 1)):
            expected = [coco.annToMask(a) for a in annotations if a["iscrowd"] == crowd]
            assert len(loaded[name]) == len(expected)
            assert all((a.numpy() == b).all() for a, b in zip(loaded[name], expected, strict=True))
        crowds += len(loaded["ignored_masks"])
    assert crowds > 0

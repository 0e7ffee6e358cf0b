"""Objects365, images that are missing, and the authors' augmentation."""

import json
import logging

import pytest
import torch
from coco_scenes import random_coco, write_coco
from official_sizes import deta
from torchvision import tv_tensors

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data import SanitizeInstances
from pe_spatial.detection import CocoInstances, Objects365
from pe_spatial.detection.deta.augmentation import ResizeOrCrop


def test_objects365_lives_in_patches_and_lacks_images(tmp_path, monkeypatch):
    content = random_coco(0, images=4)
    names = [image["file_name"] for image in content["images"]]
    settings = write_coco(tmp_path, content)
    for number, image in enumerate(content["images"]):
        patch = tmp_path / "images" / f"patch{number}"
        patch.mkdir()
        (tmp_path / "images" / names[number]).rename(patch / names[number])
        image["file_name"] = f"images/v1/patch{number}/{names[number]}"
    write_annotations(tmp_path, content)
    assert len(Objects365(**settings)) == 4
    (tmp_path / "images" / "patch2" / names[2]).unlink()
    lines = []
    monkeypatch.setattr(
        "pe_spatial.detection.datasets.print_log", lambda text, logger, level=logging.INFO: lines.append(text)
    )
    dataset = Objects365(**settings)
    assert [dataset.get_data_info(i)["img_id"] for i in range(3)] == [10, 13, 19]
    assert any("left out 1 of 4 images that are not in their folder" in line for line in lines)
    kept = [item for i in range(3) for item in dataset.get_data_info(i)["instances"] if not item["ignore"]]
    assert sum(dataset.class_counts().values()) == len(kept) < sum(not a["iscrowd"] for a in content["annotations"])
    with pytest.raises(AnnotationError, match="1 of 4 images are not in their folder"):
        Objects365(**settings, missing="raise")


def write_annotations(folder, content):
    (folder / "instances.json").write_text(json.dumps(content))


def test_a_folder_without_any_image_is_no_data_set(tmp_path):
    settings = write_coco(tmp_path, random_coco(0))
    with pytest.raises(AnnotationError, match="6 of 6 images are not in their folder"):
        Objects365(**{**settings, "data_prefix": {"img_path": "elsewhere"}})
    with pytest.raises(ValueError, match="missing 'skip'"):
        CocoInstances(**settings, missing="skip")


def test_the_metainfo_says_how_many_objects_an_image_has(tmp_path):
    content = random_coco(3)
    dataset = CocoInstances(**write_coco(tmp_path, content))
    counts = [
        sum(not a["iscrowd"] for a in content["annotations"] if a["image_id"] == image["id"])
        for image in content["images"]
    ]
    assert dataset.metainfo["most_objects"] == max(counts)


def scene(size=(300, 400)):
    box = torch.tensor([[10.0, 20, 110, 220], [200, 100, 390, 290]])
    return {
        "img": tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=size),
        "labels": torch.tensor([0, 1]),
    }


def test_sizes_are_the_authors():
    """Resized, the sizes are those of their formula; cut, the longer side is at its limit, to their rounding."""
    torch.manual_seed(0)
    transform, seen = ResizeOrCrop(size=800), set()
    resized = {deta(301, 417, size, 768) for size in range(480, 800, 32)}
    for _ in range(60):
        done = SanitizeInstances()(transform(scene((301, 417))))
        height, width = done["img"].shape[-2:]
        seen.add((height, width))
        assert (height, width) in resized or 766 <= max(height, width) <= 769
        boxes = done["boxes"]
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert len(done["labels"]) == len(boxes)
    assert resized <= seen and len(seen) > len(resized) + 10


def test_a_thin_picture_is_drawn_on_the_canvas():
    torch.manual_seed(0)
    for _ in range(6):
        picture = {"img": tv_tensors.Image(torch.zeros(3, 1, 3000, dtype=torch.uint8))}
        height, width = ResizeOrCrop(size=640)(picture)["img"].shape[-2:]
        assert 1 <= height <= 640 and 1 <= width <= 640


def test_boxes_go_where_the_pixels_go():
    torch.manual_seed(1)
    sample = scene()
    sample["img"][:, 100:290, 200:390] = 255
    for _ in range(20):
        done = SanitizeInstances()(ResizeOrCrop(size=640)(sample))
        for box, label in zip(done["boxes"].long().tolist(), done["labels"].tolist(), strict=True):
            if label == 1:
                inside = done["img"][0, box[1] : box[3], box[0] : box[2]].float()
                assert inside.mean() > 240
                assert abs(inside.numel() - (done["img"][0] > 127).sum()) < 0.03 * inside.numel() + 300


def test_a_range_that_is_none():
    with pytest.raises(ValueError, match="shortest 480 is not between 0 and size - 32 = 448"):
        ResizeOrCrop(size=480)

"""Captions make room for each other, objects are numbered inside themselves, and legends cover nothing."""

import torch
from mmengine.structures import InstanceData
from PIL import Image

from pe_spatial.demo.scenes import CLASSES, SEMANTIC_CLASSES, draw_scene
from pe_spatial.visualization import class_colors, draw_classes, draw_instances, draw_objects, enlarge
from pe_spatial.visualization import instances as module
from pe_spatial.visualization.marks import Captions, middles, write_numbers


def test_captions_of_equal_boxes_lie_beside_each_other():
    plates = []
    for count in (1, 2, 3):
        picture = Image.new("RGB", (400, 400))
        captions = Captions(picture)
        for _ in range(count):
            captions.write((100, 100, 300, 300), "a caption", (0, 200, 0))
        plates.append(sum(green > 100 for _, green, _ in picture.getdata()))
    assert plates[1] > 1.9 * plates[0] and plates[2] > 2.8 * plates[0]


def test_captions_stay_inside_the_picture():
    picture = Image.new("RGB", (200, 100))
    captions = Captions(picture)
    for box in ((-50, -50, 10, 10), (190, 90, 260, 150), (0, 0, 200, 100)):
        captions.write(box, "somewhere", (255, 255, 255))
    assert picture.getbbox() is not None


def test_the_middle_of_a_region_lies_inside_it():
    ids = torch.zeros(600, 900, dtype=torch.long)
    ids[100:500, 100:500] = 1
    ids[200:400, 200:500] = 7  # in a ring that is open to the right
    ids[550:590, 800:890] = 1000
    found = middles(ids)
    assert sorted(found) == [1, 7, 1000]
    assert all(int(ids[y, x]) == number for number, (x, y) in found.items())
    assert abs(found[7][0] - 350) < 6 and abs(found[7][1] - 300) < 6
    assert middles(torch.zeros(5, 5)) == {}
    assert middles(torch.ones(1, 1)) == {1: (0, 0)}


def test_numbers_are_written_where_they_belong():
    picture = Image.new("RGB", (400, 300))
    write_numbers(picture, {(200, 150): ("12", (250, 250, 250)), (-5, 400): ("1", 3)})
    left, top, right, bottom = picture.getbbox()
    assert (left + right) // 2 in range(196, 205) and (top + bottom) // 2 in range(146, 155)


def test_tracked_objects_are_outlined_and_numbered():
    image, ids = torch.full((3, 480, 480), 90, dtype=torch.uint8), torch.zeros(480, 480, dtype=torch.uint8)
    ids[60:200, 60:200], ids[260:460, 200:460] = 1, 9
    drawn = draw_objects(image, ids)
    assert torch.equal(drawn[:, ids == 0], image[:, ids == 0])
    for number, (y, x) in {1: (130, 130), 9: (360, 330)}.items():
        assert torch.equal(drawn[:, ids == number][:, 0], torch.tensor(module.rgb_of(number - 1), dtype=torch.uint8))
        plate = drawn[:, y - 8 : y + 8, x - 8 : x + 8].flatten(1)
        assert len(plate.unique(dim=1).T) > 3  # the plate with its rim, and the number
    other = ids.clone()
    other[ids == 9] = 8
    assert not torch.equal(draw_objects(image, other), drawn)


def test_outlines_of_large_pictures_are_thicker():
    for side, lines in ((240, 1), (960, 4)):
        mask = torch.zeros(1, side, side, dtype=torch.bool)
        mask[0, side // 4 : side // 2, side // 4 : side // 2] = True
        drawn = module.overlay_masks(torch.zeros(3, side, side, dtype=torch.uint8), mask, [0], opacity=0)
        assert int(drawn[2, side // 3].bool().sum()) == 2 * lines


def test_several_objects_are_numbered_and_the_best_is_the_first(monkeypatch):
    written = []
    monkeypatch.setattr(module, "_write_boxes", lambda picture, boxes, captions, colors: written.extend(captions))
    found = InstanceData(bboxes=torch.rand(3, 4), labels=torch.tensor([0, 1, 1]), scores=torch.tensor([0.6, 0.9, 0.7]))
    draw_instances(torch.zeros(3, 64, 64, dtype=torch.uint8), found, CLASSES)
    assert written == ["3 disc 0.60", "2 box 0.70", "1 box 0.90"]
    written.clear()
    draw_instances(torch.zeros(3, 64, 64, dtype=torch.uint8), found[:1], CLASSES)
    assert written == ["disc 0.60"]


def test_the_legend_lies_beside_the_picture():
    scene = draw_scene(3, (96, 128))
    image, labels = torch.from_numpy(scene.image).permute(2, 0, 1), torch.from_numpy(scene.semantic).long()
    colors, width = class_colors(SEMANTIC_CLASSES), enlarge(image)[0].shape[-1]
    drawn = draw_classes(image, labels, SEMANTIC_CLASSES, colors)
    renamed = draw_classes(image, labels, [name.upper() for name in SEMANTIC_CLASSES], colors)
    assert torch.equal(drawn[..., :width], renamed[..., :width])
    assert drawn.shape[-1] > width and (drawn[..., width:] == 255).all(0).float().mean() > 0.5

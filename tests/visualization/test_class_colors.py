import numpy as np
import pytest
import torch

from pe_spatial.demo.datasets import CLASS_COLORS
from pe_spatial.demo.scenes import CLASSES, SEMANTIC_CLASSES
from pe_spatial.visualization import class_colors, draw_classes, draw_instances
from pe_spatial.visualization.class_colors import is_muted
from pe_spatial.visualization.colors import DISTINCT, bright_color, color_of, palette


def by_name(classes):
    return dict(zip(classes, map(tuple, class_colors(classes)), strict=True))


def test_a_class_has_one_color_in_the_lists_of_all_tasks():
    whole, things = by_name(SEMANTIC_CLASSES), by_name(CLASSES)
    assert {name: whole[name] for name in CLASSES} == things
    assert by_name(SEMANTIC_CLASSES[::-1]) == whole
    assert by_name(["background", *CLASSES])["disc"] == things["disc"]
    assert [tuple(color) for color in CLASS_COLORS[: len(SEMANTIC_CLASSES)].tolist()] == list(whole.values())


def test_a_detector_and_a_segmenter_paint_a_class_alike():
    from mmengine.structures import InstanceData

    black, mask = torch.zeros(3, 480, 640, dtype=torch.uint8), torch.zeros(1, 480, 640, dtype=torch.bool)
    mask[0, 100:400, 100:500] = True
    found = InstanceData(bboxes=torch.tensor([[100.0, 100, 500, 400]]), labels=torch.tensor([2]), masks=mask)
    labels = torch.where(mask[0], SEMANTIC_CLASSES.index("triangle"), 255)
    objects = draw_instances(black, found, CLASSES)[:, 250, 300]
    classes = draw_classes(black, labels, SEMANTIC_CLASSES, class_colors(SEMANTIC_CLASSES))[:, 250, 300]
    hues = [pixel.float() / pixel.float().max() for pixel in (objects, classes)]
    assert torch.allclose(*hues, atol=0.03)


def test_the_order_of_a_list_and_the_spelling_of_a_name_do_not_matter():
    names = [f"screw {number}" for number in range(12)]
    assert by_name(names[::-1]) == by_name(names)
    assert class_colors([name.upper() for name in names]) == class_colors(names)


@pytest.mark.parametrize("count", [3, 9, DISTINCT])
def test_few_classes_have_colors_that_an_eye_keeps_apart(count):
    for prefix in ("part", "crop", "tree", "organ"):
        colors = torch.tensor(class_colors([f"{prefix} {number}" for number in range(count)])).float()
        assert (torch.cdist(colors, colors) + 1e6 * torch.eye(count)).min() > 40


def test_many_classes_have_colors_by_their_names_alone():
    names = [f"species {number}" for number in range(200)]
    assert by_name(names[:100]) == {name: by_name(names)[name] for name in names[:100]}


def test_what_is_around_the_objects_is_gray():
    for name in ("background", "Other", "__background__", "void", "wall", "floor"):
        assert is_muted(name)
        (color,) = class_colors([name])
        assert max(color) - min(color) <= 20
    assert not any(map(is_muted, ["cat", *CLASSES]))
    image, labels = torch.full((3, 480, 640), 200, dtype=torch.uint8), torch.zeros(480, 640, dtype=torch.long)
    change = {
        name: (draw_classes(image, labels, [name], [[0, 0, 0]])[:, 9, 9].int() - 200).abs().max()
        for name in ("background", "cat")
    }
    assert change["background"] < change["cat"]


def test_colors_that_a_data_set_states_are_kept():
    names = ["cat", "dog", "cow"]
    own = class_colors(names)
    assert class_colors(names, [[1, 2, 3]]) == [[1, 2, 3], *own[1:]]
    assert class_colors(names, [[1, 2, 3]] * 5) == [[1, 2, 3]] * 3
    assert class_colors([]) == []


def test_objects_have_colors_that_color_blind_people_tell_apart_and_old_files_are_read(tmp_path):
    from PIL import Image

    from pe_spatial.tracking.masks import read_mask

    assert color_of(0) == (0, 114, 178) and color_of(4) == (213, 94, 0)  # of Okabe and Ito
    numbers = np.arange(40).reshape(5, 8) % 7
    former = np.array([(0, 0, 0), *map(bright_color, range(6))], np.uint8)
    for table in (palette(7).numpy(), former):
        Image.fromarray(table[numbers]).save(tmp_path / "mask.png")
        assert np.array_equal(read_mask(tmp_path / "mask.png").numpy(), numbers)

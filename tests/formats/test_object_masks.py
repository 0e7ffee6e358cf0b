"""Masks, one file per object: sound ones become instances, others are named."""

import numpy as np
import pytest
from format_scenes import TRUTH, copy_of
from PIL import Image

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data import decode_mask
from pe_spatial.data.formats import choose, read_instances


def test_masks_are_those_of_the_files(tmp_path):
    part = read_instances(copy_of("object_masks", tmp_path))
    for annotation, (_, (x, y, w, h)) in zip(part.annotations, TRUTH["a"] + TRUTH["b"], strict=True):
        expected = np.zeros((24, 32), bool)
        expected[y : y + h, x : x + w] = True
        assert (decode_mask(annotation["segmentation"], (24, 32)) == expected).all()
        assert annotation["area"] == w * h


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 7, "7 values .*save it without smoothing"),
        (np.ones((32, 24), np.uint8), r"a mask of \(32, 24\) \(H, W\) for .* of \(24, 32\)"),
    ],
)
def test_masks_that_are_none_are_named(tmp_path, mask, message):
    folder = copy_of("object_masks", tmp_path)
    Image.fromarray(mask).save(folder / "a/masks/cat0.png")
    with pytest.raises(AnnotationError, match=message) as error:
        read_instances(folder)
    assert "cat0.png" in str(error.value)


def test_empty_masks_and_pictures_without_masks_are_counted(tmp_path):
    folder = copy_of("object_masks_beside", tmp_path)
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(folder / "masks/a/2.png")
    Image.new("RGB", (32, 24)).save(folder / "images/c.jpg")
    part = read_instances(folder)
    assert len(part.annotations) == 3
    assert part.notes == (
        "masks without a pixel, left out: 1 (masks/a/2.png)",
        "pictures without masks, left out: 1 (images/c.jpg)",
    )


def test_photographs_are_no_label_maps(tmp_path):
    folder = copy_of("masks_colors", tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "masks/a_mask.png")
    with pytest.raises(AnnotationError, match="colors in some label maps; .*save PNGs of the plain colors"):
        choose(folder)

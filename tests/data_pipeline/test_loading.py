from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision import tv_tensors
from torchvision.transforms import v2

from pe_spatial.data import (
    LoadDepth,
    LoadFrames,
    LoadImage,
    LoadInstances,
    LoadLabelMap,
    UnreadableFile,
    decode_mask,
    encode_mask,
    read_image,
    to_image,
)

REAL = Path(__file__).parents[2].parent / "shared" / "data"
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


# --- images -----------------------------------------------------------------------------------------------------------
def image_of(mode):
    """An image in a mode, and the RGB array [H, W, 3] that it must be read as."""
    gray = GRAY[..., None].repeat(3, -1)
    alpha = np.full((6, 8, 1), 7, np.uint8)
    return {
        "RGB": (Image.fromarray(RGB), RGB),
        "RGBA": (Image.fromarray(np.concatenate([RGB, alpha], -1)), RGB),
        "L": (Image.fromarray(GRAY), gray),
        "LA": (Image.fromarray(np.stack([GRAY, alpha[..., 0]], -1)), gray),
        "1": (Image.fromarray(GRAY > 127), 255 * (gray > 127).astype(np.uint8)),
        "I;16": (Image.fromarray(GRAY.astype(np.uint16) * 256 + 99), gray),
        "P": (Image.fromarray(RGB).quantize(256), RGB),
    }[mode]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "I;16", "P"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image, expected = image_of(mode)
    assert image.mode == mode
    loaded = read_image(save(tmp_path / "image.png", image))
    assert type(loaded) is tv_tensors.Image
    assert loaded.dtype == torch.uint8
    assert (loaded.permute(1, 2, 0).numpy() == expected).all()


def test_palette_with_transparency_keeps_its_colors(tmp_path):
    image = Image.fromarray(RGB).quantize(256)
    path = save(tmp_path / "image.png", image, transparency=bytes([0] * 10))
    assert (read_image(path).permute(1, 2, 0).numpy() == RGB).all()


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    loaded = read_image(save(tmp_path / "image.jpg", red)).float().mean((1, 2))
    assert loaded[0] > 200
    assert loaded[1:].max() < 60


def test_exif_orientation_is_applied_unless_declined(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned by 90 degrees clockwise
    path = save(tmp_path / "image.png", Image.fromarray(RGB), exif=exif)
    assert (read_image(path).permute(1, 2, 0).numpy() == np.rot90(RGB, -1)).all()
    assert (read_image(path, apply_exif=False).permute(1, 2, 0).numpy() == RGB).all()
    record = {"img_path": path, "height": 6, "width": 8}
    with pytest.raises(ValueError, match=r"\(8, 6\).*\(6, 8\).*apply_exif=False"):
        LoadImage()(record)
    assert LoadImage(apply_exif=False)(record)["ori_shape"] == (6, 8)


def test_unreadable_files_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "truncated.png").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(tmp_path / "float.tiff")
    for name in ("truncated.png", "text.jpg", "empty.png", "missing.png", "float.tiff"):
        with pytest.raises(UnreadableFile, match=name):
            LoadImage()({"img_path": str(tmp_path / name)})


def test_pictures_in_memory_are_accepted_in_three_forms():
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    for picture in (Image.fromarray(RGB), RGB, tensor, RGB[::-1][::-1]):
        assert torch.equal(to_image(picture).as_subclass(torch.Tensor), tensor)
        assert LoadImage()({"img": picture})["ori_shape"] == (6, 8)
    for wrong in (GRAY, RGB.astype(np.float32), tensor.float(), "name.jpg"):
        with pytest.raises(ValueError, match="is not an image"):
            to_image(wrong)


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


def test_encoding_a_mask_is_inverted_by_decoding_it():
    rng = np.random.default_rng(0)
    for density in (0, 0.3, 1):
        mask = rng.uniform(size=(17, 9)) < density
        assert (decode_mask(encode_mask(mask), (17, 9)) == mask).all()


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
    with pytest.raises(ValueError, match="'drop', 'keep'"):
        LoadInstances(ignored="apart")
    with pytest.raises(ValueError, match="'raise', 'drop'"):
        LoadInstances(empty="keep")


# --- label maps -------------------------------------------------------------------------------------------------------
def label_sample(path):
    return LoadImage()({"img": RGB, "img_path": "scene.png", "seg_map_path": str(path), "depth_path": str(path)})


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_label_maps_hold_indices(tmp_path, mode):
    labels = np.random.default_rng(1).integers(0, 5, (6, 8)).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(labels)
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9, 1, 2, 3, 8, 8, 8])
    loaded = LoadLabelMap(num_classes=5)(label_sample(save(tmp_path / "labels.png", image)))["sem_seg"]
    assert type(loaded) is tv_tensors.Mask
    assert loaded.dtype == torch.int64
    assert (loaded.numpy()[0] == labels).all()


def test_labels_counted_from_one(tmp_path):
    labels = np.array([[0, 1, 2, 255]] * 6, np.uint8).repeat(2, 1)
    path = save(tmp_path / "labels.png", Image.fromarray(labels))
    loaded = LoadLabelMap(zero_is_ignored=True, num_classes=2)(label_sample(path))["sem_seg"]
    assert loaded[0, 0, ::2].tolist() == [255, 0, 1, 255]


def test_bad_label_maps(tmp_path):
    colors = save(tmp_path / "colors.png", Image.fromarray(RGB))
    with pytest.raises(UnreadableFile, match=r"colors.png.*not class indices"):
        LoadLabelMap()(label_sample(colors))
    small = save(tmp_path / "small.png", Image.fromarray(GRAY[:, :-1]))
    with pytest.raises(ValueError, match=r"small.png is \(6, 7\).*scene.png is \(6, 8\)"):
        LoadLabelMap()(label_sample(small))
    with pytest.raises(ValueError, match=r"class index \d+ is outside 0…2"):
        LoadLabelMap(num_classes=3)(label_sample(save(tmp_path / "gray.png", Image.fromarray(GRAY))))


def test_labels_loaded_after_the_resize_keep_their_frame(tmp_path):
    sample = label_sample(save(tmp_path / "labels.png", Image.fromarray(GRAY)))
    loaded = LoadLabelMap()(v2.Resize([12, 16])(sample))
    assert loaded["img"].shape[1:] == (12, 16)
    assert loaded["sem_seg"].shape[1:] == (6, 8)


# --- depth ------------------------------------------------------------------------------------------------------------
def test_depth_png_is_scaled_to_meters(tmp_path):
    millimeters = np.random.default_rng(2).integers(0, 10000, (6, 8)).astype(np.uint16)
    path = save(tmp_path / "depth.png", Image.fromarray(millimeters))
    depth = LoadDepth(scale=0.001)(label_sample(path))["depth"]
    assert type(depth) is tv_tensors.Mask
    assert depth.dtype == torch.float32
    assert np.allclose(depth.numpy()[0], millimeters / 1000)


def test_what_is_no_measurement_becomes_zero(tmp_path):
    meters = np.full((6, 8), 2.5)
    meters[0, :4] = np.inf, -np.inf, np.nan, -1
    np.save(tmp_path / "depth.npy", meters)
    depth = LoadDepth()(label_sample(tmp_path / "depth.npy"))["depth"][0]
    assert depth[0, :4].tolist() == [0, 0, 0, 0]
    assert (depth.flatten()[4:] == 2.5).all()


def test_bad_depth(tmp_path):
    with pytest.raises(UnreadableFile, match=r"eight.png.*16-bit"):
        LoadDepth()(label_sample(save(tmp_path / "eight.png", Image.fromarray(GRAY))))
    np.save(tmp_path / "cube.npy", np.ones((6, 8, 1)))
    with pytest.raises(UnreadableFile, match=r"cube.npy.*\(6, 8, 1\)"):
        LoadDepth()(label_sample(tmp_path / "cube.npy"))
    np.save(tmp_path / "turned.npy", np.ones((8, 6)))
    with pytest.raises(ValueError, match=r"turned.npy is \(8, 6\)"):
        LoadDepth()(label_sample(tmp_path / "turned.npy"))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(UnreadableFile, match=r"objects.npy"):  # never unpickled
        LoadDepth()(label_sample(tmp_path / "objects.npy"))
    with pytest.raises(ValueError, match="scale 0 is not a positive"):
        LoadDepth(scale=0)


# --- video ------------------------------------------------------------------------------------------------------------
def test_frames_are_loaded_in_natural_order(tmp_path):
    for number in (10, 9, 100):
        Image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "notes.txt").write_text("")
    sample = LoadFrames()({"video_path": str(tmp_path)})
    assert type(sample["img"]) is tv_tensors.Video
    assert sample["img"].shape == (3, 3, 4, 5)
    assert sample["img"][:, 0, 0, 0].tolist() == [9, 10, 100]
    assert sample["ori_shape"] == (4, 5)
    assert [Path(path).name for path in sample["frame_paths"]] == ["9.png", "10.png", "100.png"]


def test_bad_videos(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image.*\.jpg"):
        LoadFrames()({"video_path": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        LoadFrames()({"video_path": str(tmp_path / "nowhere")})
    paths = [save(tmp_path / f"{n}.png", Image.fromarray(RGB[: 6 - n])) for n in range(2)]
    with pytest.raises(ValueError, match=r"1.png: a frame of \(5, 8\).*starts with \(6, 8\)"):
        LoadFrames()({"frame_paths": paths})


# --- real files -------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not (REAL / "nyu_sample").is_dir(), reason="no real data beside the repository")
def test_a_real_indoor_depth_map_is_in_meters():
    [path] = [path for path in (REAL / "nyu_sample").glob("*.png") if Image.open(path).mode.startswith("I")]
    with Image.open(path) as image:
        width, height = image.size
    sample = {"depth_path": str(path), "ori_shape": (height, width)}
    depth = LoadDepth(scale=0.001)(sample)["depth"]
    measured = depth[depth > 0]
    assert measured.min() > 0.3
    assert 1 < measured.median() < measured.max() < 12


@pytest.mark.skipif(not (REAL / "ade_sample").is_dir(), reason="no real data beside the repository")
def test_real_label_maps_fit_their_images():
    maps = sorted((REAL / "ade_sample").rglob("*.png"))
    assert maps
    for path in maps:
        [image] = (REAL / "ade_sample").rglob(f"{path.stem}.jpg")
        sample = LoadImage()({"img_path": str(image), "seg_map_path": str(path)})
        labels = LoadLabelMap(zero_is_ignored=True, num_classes=150)(sample)["sem_seg"]
        assert len(labels.unique()) > 3


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

"""What a folder run leaves: indexed PNGs, areas, COCO's panoptic format; and what it knows when it starts again."""

import json
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image
from small_segmenters import CLASSES, COLORS
from torchvision.ops import masks_to_boxes

from pe_spatial.common.errors import UserError
from pe_spatial.common.names import output_stems
from pe_spatial.common.records import Records
from pe_spatial.data import boxes_of_masks, decode_mask
from pe_spatial.segmentation.panoptic import CocoPanoptic, LoadPanoptic
from pe_spatial.segmentation.results import SegmentationWriter, boxes_of_ids, count_labels

METAINFO = {"classes": CLASSES, "palette": COLORS, "is_thing": [False, False, True, False, True]}
IMAGE = torch.zeros(3, 30, 40, dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path):
    """An output folder beside an input of three files."""
    for name in ("a.jpg", "b.jpg", "v.mp4"):
        (tmp_path / name).write_bytes(b"pixels")
    return tmp_path / "out"


def writer_in(folder, run=None, metainfo=METAINFO, kinds=("labels",), threshold=0.5, draw=False):
    records = Records(folder, run or {"weights": "x"})
    stems = output_stems(["a.jpg", "b.jpg", "v.mp4"])
    model = SimpleNamespace(num_classes=len(metainfo["classes"]))
    predictor = SimpleNamespace(metainfo=metainfo, kinds=kinds, model=model)
    return SegmentationWriter(records, stems, predictor, Namespace(threshold=threshold, no_pictures=not draw))


def missing(writer):
    """The files of the input whose results are not there."""
    return writer.plan({name: writer.folder.parent / name for name in ("a.jpg", "b.jpg", "v.mp4")})


def semantic(labels):
    sample = BaseDataElement()
    sample.set_field(PixelData(data=torch.as_tensor(labels)[None]), "pred_sem_seg", dtype=PixelData)
    return sample


def labels_of(seed, classes=5):
    return np.random.default_rng(seed).integers(0, classes, (30, 40)).astype(np.uint8)


def test_indexed_pngs_hold_labels_and_colors(folder):
    writer = writer_in(folder)
    writer.write("a.jpg", IMAGE, semantic(labels_of(0)))
    with Image.open(folder / "labels/a.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), labels_of(0))
        colors = np.asarray(image.convert("RGB"))
    assert np.array_equal(colors, np.array(COLORS, np.uint8)[labels_of(0)])


def test_more_than_256_classes_take_16_bits(folder):
    names = tuple(f"class {number}" for number in range(300))
    writer = writer_in(folder, metainfo={"classes": names})
    labels = np.arange(1200, dtype=np.int32).reshape(30, 40) % 300
    writer.write("a.jpg", IMAGE, semantic(labels))
    with Image.open(folder / "labels/a.png") as image:
        assert np.array_equal(np.asarray(image), labels)


def test_areas_by_file_and_in_total(folder):
    writer = writer_in(folder)
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        writer.write(name, IMAGE, semantic(labels_of(seed, 4)))
    content = json.loads(writer.close().read_text())
    assert [entry["name"] for entry in content["classes"]] == list(CLASSES)
    for seed, record in enumerate(content["files"]):
        assert (record["height"], record["width"]) == (30, 40)
        assert sum(record["pixels"].values()) == 1200 and "person" not in record["pixels"]
        assert record["pixels"]["car"] == (labels_of(seed, 4) == 2).sum()
    total = {entry["name"]: entry for entry in content["total"]}
    assert total["car"]["pixels"] == sum((labels_of(seed, 4) == 2).sum() for seed in (0, 1))
    assert sum(entry["share"] for entry in content["total"]) == pytest.approx(1, abs=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == [".pe_spatial", "labels", "segmentation.json"]


def test_large_maps_are_counted_in_parts():
    labels = np.random.default_rng(0).integers(0, 5, (3000, 3000)).astype(np.uint8)
    assert np.array_equal(count_labels(labels, 6), [*np.bincount(labels.ravel()), 0])


def test_names_that_would_meet_keep_their_suffix():
    names = ["a.jpg", "a.png", "b/a.jpg", "c.1.jpg", "c.2.jpg"]
    expected = {"a.jpg": "a.jpg", "a.png": "a.png", "b/a.jpg": "b/a", "c.1.jpg": "c.1", "c.2.jpg": "c.2"}
    assert output_stems(names) == output_stems(reversed(names)) == expected


# --- starting again ---------------------------------------------------------------------------------------------------
def test_a_killed_run_is_continued(folder):
    """The records are on disk before a run ends."""
    killed = writer_in(folder)
    assert missing(killed) == ["a.jpg", "b.jpg", "v.mp4"]
    killed.write("a.jpg", IMAGE, semantic(labels_of(0)))
    killed.records.close()  # without a list
    again = writer_in(folder)
    assert missing(again) == ["b.jpg", "v.mp4"]
    again.write("b.jpg", IMAGE, semantic(labels_of(1)))
    files = json.loads(again.close().read_text())["files"]
    assert [record["file_name"] for record in files] == ["a.jpg", "b.jpg"]
    assert missing(writer_in(folder)) == ["v.mp4"]


def test_what_is_missing_or_changed_is_done_again(folder):
    writer = writer_in(folder)
    missing(writer)
    for name in ("a.jpg", "b.jpg"):
        writer.write(name, IMAGE, semantic(labels_of(0)))
    writer.close()
    more = writer_in(folder, kinds=("labels", "confidence"))
    assert missing(more) == ["a.jpg", "b.jpg", "v.mp4"]
    more.records.close()


def test_what_is_gone_or_outdated_is_not_in_the_list(folder):
    writer = writer_in(folder)
    missing(writer)
    for name in ("a.jpg", "b.jpg"):
        writer.write(name, IMAGE, semantic(labels_of(0)))
    writer.close()
    (folder / "labels/a.png").unlink()
    (folder.parent / "b.jpg").write_bytes(b"other pixels")
    again = writer_in(folder)
    assert missing(again) == ["a.jpg", "b.jpg", "v.mp4"]
    assert json.loads(again.close().read_text())["files"] == []


def test_a_video_is_done_when_all_frames_are(folder):
    writer = writer_in(folder)
    missing(writer)
    for frame in (0, 1, 2):
        writer.write("v.mp4", IMAGE, semantic(labels_of(frame)), frame)
    assert (folder / "labels/v/000001.png").is_file()
    assert "v.mp4" in missing(writer) and not list(writer.records.contents())
    for frame in (0, 1):  # the file was cut in between
        writer.write("v.mp4", IMAGE, semantic(labels_of(frame)), frame)
    writer.finish_video("v.mp4", 2)
    assert "v.mp4" not in missing(writer)
    assert sorted(path.name for path in (folder / "labels/v").iterdir()) == ["000000.png", "000001.png"]
    files = json.loads(writer.close().read_text())["files"]
    assert [record["frame"] for record in files] == [0, 1]


def test_folders_of_other_origin_are_refused(folder):
    (folder / "labels").mkdir(parents=True)
    (folder / "labels/mine.png").write_bytes(b"precious")
    with pytest.raises(UserError, match="unknown origin; give another --output"):
        writer_in(folder)
    (folder / "labels/mine.png").unlink()
    writer = writer_in(folder)
    writer.write("a.jpg", IMAGE, semantic(labels_of(0)))
    writer.close()
    with pytest.raises(UserError, match=r"another run \(weights 'x' instead of 'y'\)"):
        writer_in(folder, {"weights": "y"})
    (folder / ".pe_spatial/run.json").write_text("[")
    with pytest.raises(UserError, match="is not known what was run"):
        writer_in(folder)


# --- segments and instances -------------------------------------------------------------------------------------------
def panoptic():
    ids = torch.zeros(30, 40, dtype=torch.int32)
    ids[5:20, 3:30], ids[10:14, 10:13], ids[25:, 31:] = 1, 2, 300
    rows = ((1, 0, False), (2, 2, True), (300, 2, True))
    segments = [
        {"id": i, "label": label, "score": 0.9, "area": int((ids == i).sum()), "is_thing": thing}
        for i, label, thing in rows
    ]
    sample = BaseDataElement(metainfo={"segments": segments})
    sample.set_field(PixelData(data=ids[None]), "pred_panoptic", dtype=PixelData)
    return sample, ids


def test_panoptic_files_are_read_back_by_the_data_set(folder):
    sample, ids = panoptic()
    writer = writer_in(folder, kinds=("panoptic",), draw=True)
    picture = writer.write("a.jpg", IMAGE, sample)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    writer.close()
    data = CocoPanoptic(
        ann_file=str(folder / "panoptic.json"), data_prefix={"img_path": "", "seg_map_path": str(folder / "panoptic")}
    )
    data.full_init()
    record = data.get_data_info(0)
    assert data.metainfo["classes"] == CLASSES and list(data.metainfo["is_thing"]) == METAINFO["is_thing"]
    loaded = LoadPanoptic()({**record, "ori_shape": (30, 40)})
    assert torch.equal(loaded["labels"], torch.tensor([2, 2]))
    assert torch.equal(loaded["masks"].as_subclass(torch.Tensor), torch.stack([ids == 2, ids == 300]))
    expected = torch.full((30, 40), 255)
    expected[ids == 1], expected[(ids == 2) | (ids == 300)] = 0, 2
    assert torch.equal(loaded["sem_seg"][0].as_subclass(torch.Tensor), expected)
    info = json.loads((folder / "panoptic.json").read_text())["annotations"][0]["segments_info"][2]
    assert (info["bbox"], info["area"], info["category_id"]) == ([31, 25, 9, 5], 45, 3)
    total = json.loads((folder / "segmentation.json").read_text())["total"]
    assert {entry["name"]: entry["pixels"] for entry in total} == {"road": 15 * 27 - 12, "car": 12 + 45}


def test_instances_keep_their_masks(folder):
    masks = torch.zeros(3, 30, 40, dtype=torch.bool)
    masks[0, 2:9, 3:8] = masks[1, 20:, 30:] = masks[2, 1, 1] = True
    boxes = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    sample = BaseDataElement()
    sample.pred_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([2, 4, 2]), scores=torch.tensor([0.9, 0.6, 0.2]), masks=masks
    )
    writer = writer_in(folder, kinds=(), draw=True)
    assert writer.write("a.jpg", IMAGE, sample).ndim == 3
    found = json.loads(writer.close().read_text())["files"][0]["instances"]
    assert [(row["label"], row["score"], row["area"]) for row in found] == [(2, 0.9, 35), (4, 0.6, 100)]
    assert found[0]["bbox"] == [3, 2, 5, 7]
    assert all(np.array_equal(decode_mask(row["segmentation"], (30, 40)), masks[i]) for i, row in enumerate(found))


def test_boxes_of_all_segments_come_from_one_pass():
    rng = np.random.default_rng(0)
    for ids in (
        rng.integers(0, 6, (9, 14)),
        rng.integers(0, 2, (1, 30)) * 700,
        np.full((5, 1), 3),
        np.eye(7, dtype=int),
    ):
        boxes = boxes_of_ids(ids.astype(np.int32))
        assert boxes.keys() == set(ids.ravel().tolist())
        for number, box in boxes.items():
            assert list(box) == boxes_of_masks(torch.from_numpy(ids == number)[None])[0].tolist()

import json

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

from pe_spatial.tracking.datasets import Davis2016, Davis2017, VideoFolder, YouTubeVOS


def write(path, ids=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if ids is None:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    else:
        Image.fromarray(np.asarray(ids, np.uint8).reshape(1, -1).repeat(8, 0)).save(path)


def video(root, frames, masks, name, steps):
    for step in steps:
        write(root / frames / name / f"{step:05d}.jpg")
    for step, ids in masks.items():
        write(root / "Annotations" / frames.removeprefix("JPEGImages").strip("/") / name / f"{step:05d}.png", ids)


@pytest.fixture
def davis(tmp_path):
    for name in ("bear", "dog", "swan"):
        video(tmp_path, "JPEGImages/480p", {step: [0, 1, 2, 0] for step in range(3)}, name, range(3))
    for folder, text in {
        "2017": "bear\nswan\n",
        "480p": "/JPEGImages/480p/dog/00000.jpg /Annotations/480p/dog/00000.png\n" * 2,
    }.items():
        (tmp_path / "ImageSets" / folder).mkdir(parents=True)
        (tmp_path / "ImageSets" / folder / "val.txt").write_text(text)
    return tmp_path


def test_davis_lists(davis):
    names = lambda dataset: [dataset.get_data_info(n)["video"] for n in range(len(dataset))]  # noqa: E731
    assert names(Davis2017(str(davis), "val")) == ["bear", "swan"]
    assert names(Davis2016(str(davis), "val")) == ["dog"]
    assert names(Davis2017(str(davis))) == ["bear", "dog", "swan"]
    assert names(Davis2017(str(davis), "val", videos=["swan"])) == ["swan"]


def test_a_record_gives_the_first_mask_and_has_all_annotations(davis):
    dataset = DATASETS.build({"type": "Davis2016", "data_root": str(davis), "split": "val"})
    record = dataset.get_data_info(0)
    assert len(record["frame_paths"]) == len(record["annotation_paths"]) == 3
    assert list(record["prompts"]) == [0] and record["prompts"][0]["binary"]
    sample = dataset[0]
    assert sample["inputs"] == "dog" and sample["data_samples"].frame_paths == record["frame_paths"]


def test_youtube_vos_objects_enter_when_they_appear(tmp_path):
    masks = {0: [0, 1, 0, 0], 10: [0, 1, 2, 0], 20: [0, 0, 2, 4]}
    video(tmp_path / "valid", "JPEGImages", masks, "abc", range(0, 25, 5))
    expected = {0: [1], 2: [2], 4: [4]}

    def prompts():
        record = YouTubeVOS(str(tmp_path), "valid").get_data_info(0)
        assert [path is not None for path in record["annotation_paths"]] == [True, False, True, False, True]
        return {frame: given["only"] for frame, given in record["prompts"].items()}

    assert prompts() == expected
    frames = {"1": ["00000", "00005"], "2": ["00010"], "4": ["00020"]}
    meta = {"videos": {"abc": {"objects": {key: {"frames": value} for key, value in frames.items()}}}}
    (tmp_path / "valid" / "meta.json").write_text(json.dumps(meta))
    assert prompts() == expected


def test_a_folder_of_frames_with_one_mask(tmp_path):
    video(tmp_path, "JPEGImages", {3: [0, 1, 1, 0]}, ".", range(2, 6))
    record = VideoFolder(str(tmp_path)).get_data_info(0)
    assert list(record["prompts"]) == [1] and len(record["frame_paths"]) == 4


def test_what_is_missing_is_named(davis, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        Davis2017(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"no list train\.txt"):
        Davis2017(str(davis), "train")
    with pytest.raises(FileNotFoundError, match="no video 'cat'"):
        Davis2017(str(davis), "val", videos=["cat"])
    (davis / "Annotations" / "480p" / "bear" / "00000.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"bear has no 00000\.png"):
        Davis2017(str(davis), "val")
    with pytest.raises(FileNotFoundError, match="no mask with the name of a frame"):
        VideoFolder(str(davis), frames="JPEGImages/480p", masks="Nothing")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        YouTubeVOS(str(davis), "valid")

import os

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.data import ImageFolder, find_images


@pytest.fixture
def folder(tmp_path):
    for name in ("10.jpg", "9.JPG", "deep/er/1.png", "deep/x[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / name)
    for name in ("notes.txt", ".hidden.jpg", "9.JPG.json"):
        (tmp_path / name).write_text("")
    return tmp_path


def names(source, root):
    return [os.path.relpath(path, root) for path in find_images(source)]


def test_a_folder_is_searched_in_natural_order(folder):
    assert names(folder, folder) == ["9.JPG", "10.jpg", "deep/er/1.png", "deep/x[1].png"]


def test_globs_files_and_lists(folder):
    assert names(f"{folder}/*.[jJ][pP][gG]", folder) == ["9.JPG", "10.jpg"]
    assert names(f"{folder}/**/*.png", folder) == ["deep/er/1.png", "deep/x[1].png"]
    assert names(str(folder / "deep" / "x[1].png"), folder) == ["deep/x[1].png"]  # an existing name is no glob
    assert find_images(["b.jpg", "a.jpg"]) == ["b.jpg", "a.jpg"]


def test_a_list_file_keeps_its_order_and_is_relative_to_itself(folder):
    listing = folder / "deep" / "list.txt"
    listing.write_text(f"# first the last\n../9.JPG\n\n{folder}/10.jpg\n")
    assert names(listing, folder) == ["9.JPG", "10.jpg"]


def test_nothing_found_names_what_was_looked_for(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    (empty / "list.txt").write_text("# nothing\n")
    for source in (empty, f"{folder}/*.bmp"):
        with pytest.raises(FileNotFoundError, match=r"\.jpg .*\.tiff"):
            find_images(source)
    with pytest.raises(FileNotFoundError, match="nothing: no image there: no such file"):
        find_images(empty / "nothing")
    with pytest.raises(FileNotFoundError, match="one path per line"):
        find_images(empty / "list.txt")


def test_it_is_a_dataset(folder):
    pipeline = [{"type": "LoadImage"}, {"type": "PackSample"}]
    dataset = DATASETS.build({"type": "ImageFolder", "source": str(folder), "pipeline": pipeline, "test_mode": True})
    assert len(dataset) == 4
    packed = dataset[2]
    assert packed["inputs"].shape == (3, 4, 6)
    assert packed["data_samples"].img_id == 2
    assert packed["data_samples"].img_path.endswith("deep/er/1.png")
    with pytest.raises(UnreadableFile, match="gone.jpg"):
        ImageFolder([folder / "gone.jpg"], pipeline=pipeline)[0]

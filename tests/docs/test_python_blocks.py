"""The Python of README and the pages compiles, and runs: here, in a test that a table names, or it is counted.

Here run the blocks of `HERE`, in small: names of models and of weights are those of the page, and stand for small ones.
A comment before a block, `<!-- needs: weights -->`, says what else a reader needs.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from doc_pages import DOCUMENTS, ROOT, blocks, name_of, read
from PIL import Image
from shared_models import save_shared
from small_checkpoints import SAVE

from pe_spatial.backbones import VARIANTS, PEBackbone
from pe_spatial.commands.shell import run_command

# page -> what is written there and what is run here
HERE = {
    "README.md": {},
    "docs/guides/depth.md": {},
    "docs/guides/encoders.md": {},
    "docs/guides/own_data.md": {"mask_rcnn-s": "mask_rcnn-tiny", "epochs=20": "iterations=1, image_size=64, workers=0"},
    "docs/guides/prediction.md": {},
    "docs/guides/segmentation.md": {},
}
# page -> the test that runs its Python
ELSEWHERE = {
    "docs/export.md": "tests/tracking/test_tracking_step.py",
    "docs/features.md": "tests/features/test_docs.py",
    "docs/plm.md": "tests/plm/test_plm_page.py",
    "docs/search.md": "tests/search/test_search_docs.py",
    "docs/transformers.md": "tests/integrations/test_transformers_page.py",
}
TUTORIALS = "docs/tutorials/"  # tests/docs/test_tutorials.py runs them
# page -> how many of its blocks run nowhere, and what they need
NOWHERE = {
    "docs/export.md": {"files": 2},
    "docs/guides/alignment.md": {"files": 2},
    "docs/guides/detectron2.md": {"detectron2": 1},
    "docs/guides/tracking.md": {"weights": 1},
    "docs/large_photographs.md": {"files": 1},
    "docs/open_vocabulary.md": {"weights": 1},
    "docs/shared_pass.md": {"files": 2},
    "docs/zero_shot.md": {"weights": 1},
}
PYTHON = {
    name_of(path): found
    for path in DOCUMENTS
    if (found := [(mark, code) for language, mark, code in blocks(read(path)) if language == "python"])
}


@pytest.mark.parametrize("page", PYTHON)
def test_it_is_python(page):
    for _, code in PYTHON[page]:
        compile(code, page, "exec")


def test_every_page_runs_here_or_elsewhere_or_is_counted():
    pages = {page for page in PYTHON if not page.startswith(TUTORIALS)}
    assert pages == {*HERE, *ELSEWHERE, *NOWHERE}
    left_out = {
        page: dict(Counter(mark.removeprefix("needs: ") for mark, _ in PYTHON[page] if mark or page not in ELSEWHERE))
        for page in NOWHERE
    }
    assert left_out == NOWHERE
    for page, test in ELSEWHERE.items():
        assert page.rpartition("/")[2] in read(ROOT / test)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the pages name, small."""
    folder = tmp_path_factory.mktemp("blocks")
    data = ["--images", "36", "--image-size", "64", "--no-photographs"]
    assert run_command("demo", ["--output", str(folder / "demo/data"), *data]) == 0
    for run, task in (("demo/run", "detection"), ("demo/depth", "depth")):
        (folder / run).mkdir(parents=True)
        SAVE[task](folder / run / "epoch_1.pth")
        (folder / run / "last_checkpoint").write_text(str(folder / run / "epoch_1.pth"))
    (folder / "demo/masks").mkdir()
    several = {"outputs": ["semantic", "instance", "panoptic"], "things": 2}
    save_shared(folder / "demo/masks/epoch_1.pth", "queries", **several)
    (folder / "demo/masks/last_checkpoint").write_text(str(folder / "demo/masks/epoch_1.pth"))
    SAVE["segmentation"](folder / "seg.pth")
    Image.new("RGB", (64, 48), "gray").save(folder / "photo.jpg")
    (folder / "photos").symlink_to(folder / "demo/data")
    return folder


@pytest.mark.parametrize("page", HERE)
def test_it_runs(page, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PE_SPATIAL_WEIGHTS", str(place))
    small = replace(VARIANTS["PE-Spatial-B16-512"], width=32, heads=2)
    monkeypatch.setitem(VARIANTS, small.name, small)
    torch.save(PEBackbone(small.name).encoder.state_dict(), place / f"{small.name}.pt")
    names = {}
    for _, code in PYTHON[page]:
        for long, short in HERE[page].items():
            code = code.replace(long, short)
        exec(compile(code, page, "exec"), names)
    if "maps" in names:
        assert [tuple(one.shape) for one in names["maps"]] == [(1, 32, 30, 40)] * 3

"""The rows and the table of tools/dev/measure_factory.py, which itself needs data and an encoder of others."""

import argparse
from copy import deepcopy

import measure_factory
import numpy as np
import pytest
import torch
from measure_factory import AS_IT_IS, BEFORE, MEASURES, PARTS, TEACHER
from mmengine.registry import MODELS
from PIL import Image

from pe_spatial.common.errors import UserError


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Four photographs, and a file in the place of the teacher's."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("factory")
    (folder / "train2017").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "train2017" / f"{number}.png")
    (folder / "teacher.pt").touch()  # nothing of it is read here
    return argparse.Namespace(
        data=folder, weights=folder / "teacher.pt", output=folder / "out", iterations=40, image_size=64, batch_size=2
    )


@pytest.fixture(scope="module")
def plain(options):
    """The config of the row without a change, with a teacher of one block for speed."""
    config = measure_factory.composed(options, AS_IT_IS, 0).config
    config.model.teachers[TEACHER].backbone.update(weights=None, options={"depth": 1}, img_size=56)
    return config


@pytest.mark.parametrize("part", PARTS)
def test_every_part_changes_one_thing_and_its_model_is_built(part, plain):
    config = deepcopy(plain)
    PARTS[part](config)
    assert config.to_dict() != plain.to_dict()
    with torch.device("meta"):
        MODELS.build(config.model)


def test_the_table_says_what_is_proven():
    def values(*numbers):
        return dict(zip(MEASURES, numbers, strict=True))

    results = {}
    for seed in range(3):
        noise = 0.01 * seed
        results[f"{BEFORE}, seed {seed}"] = values(0, 0, 0)
        results[f"{AS_IT_IS}, seed {seed}"] = values(0.9, 0.5 + noise, 0.1)
        results[f"good, seed {seed}"] = values(0.1, 0.6 + noise, 0.1)
        results[f"bad, seed {seed}"] = values(0.9, 0.6 + noise, 0.09)
        results[f"equal, seed {seed}"] = values(0.9, 0.51 + noise, 0.1)
    lines = measure_factory.table(results).splitlines()[2:]
    assert [line.split(" | ")[-1].strip(" |") for line in lines] == [
        "–",
        "–",
        "yes: gains matched",
        "no: loses mIoU",
        "no: within the spread",
    ]
    assert "0.5100 (0.5000 to 0.5200)" in lines[1]


def test_an_unknown_part_is_named(options):
    with pytest.raises(UserError, match="no part 'shifts'; did you mean 'shift'"):
        measure_factory.run(argparse.Namespace(**{**vars(options), "parts": ["shifts"], "seeds": 1}))

"""The rows and the table of tools/dev/measure_factory.py, which itself needs data and an encoder of others."""

import argparse
from copy import deepcopy

import factory_material
import measure_factory
import measure_loading
import numpy as np
import pytest
import torch
from factory_material import RememberedTeacher
from measure_factory import AS_IT_IS, BEFORE, CORE, MEASURES, PARTS, TEACHER
from mmengine.registry import MODELS
from PIL import Image

from pe_spatial.alignment.module_teacher import ModuleTeacher
from pe_spatial.common.errors import UserError
from pe_spatial.training.planner.timing import time_training


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Four photographs, and a file in the place of the teacher's."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("factory")
    rng = np.random.default_rng(0)
    for part in ("train2017", "val2017"):
        (folder / part).mkdir()
        for number in range(4):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / part / f"{number}.png")
    (folder / "teacher.pt").touch()  # nothing of it is read here
    return argparse.Namespace(
        data=folder,
        weights=folder / "teacher.pt",
        output=folder / "out",
        iterations=40,
        image_size=64,
        batch_size=2,
        views=2,
        layer=None,
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


def test_parts_are_joined_and_a_layer_is_chosen(options):
    """Both change the config as each alone does, and have a row of their own."""
    chosen = argparse.Namespace(**{**vars(options), "layer": 7})
    config = measure_factory.composed(chosen, "gram+channels", 0).config
    assert config.model.gram == {"teacher": "anchor"} and config.model.distill[TEACHER].standardize == "channels"
    assert config.model.teachers[TEACHER].layer == config.model.teachers.anchor.layer == 7
    results = {f"{row}, seed 0": dict.fromkeys(MEASURES, 0.1) for row in (AS_IT_IS, "gram+channels", "gram")}
    assert [line.split(" | ")[0] for line in measure_factory.table(results).splitlines()[2:]] == [
        "| as it is",
        "| gram",
        "| gram+channels",
    ]


def test_the_table_says_what_is_proven():
    def values(*numbers):
        return dict(zip(MEASURES, numbers, strict=True))

    results = {}
    for seed in range(3):
        noise = 0.01 * seed
        results[f"{BEFORE}, seed {seed}"] = values(0, 0, 0, 0)
        results[f"{AS_IT_IS}, seed {seed}"] = values(0.9, 0.5 + noise, 0.1, 0.3)
        results[f"channels, seed {seed}"] = values(0.1, 0.6 + noise, 0.1, 0.3)
        results[f"isotropic, seed {seed}"] = values(0.9, 0.6 + noise, 0.1, 0.29)
        results[f"summary, seed {seed}"] = values(0.9, 0.51 + noise, 0.1, 0.3)
        results[f"{AS_IT_IS}{CORE}, seed {seed}"] = values(0.9, 0.1 + noise, 0.1, 0.3)
        results[f"gram{CORE}, seed {seed}"] = values(0.9, 0.2 + noise, 0.1, 0.3)
    lines = measure_factory.table(results).splitlines()[2:]
    assert [line.split(" | ")[-1].strip(" |") for line in lines] == [
        "–",
        "–",
        "yes: gains matched",
        "no: loses J&F",
        "no: within the spread",
        "–",
        "yes: gains matched",
    ]
    assert "0.5100 (0.5000 to 0.5200)" in lines[1]


def test_an_unknown_part_is_named(options):
    with pytest.raises(UserError, match="no part 'shifts'; did you mean 'shift'"):
        measure_factory.run(argparse.Namespace(**{**vars(options), "parts": ["shifts"], "core_parts": [], "seeds": 1}))


def test_views_are_made_once_and_augmented(options, plain):
    views = sorted((options.output / "views").iterdir())
    assert [path.name for path in views] == [f"{photo}_{view:03d}.png" for photo in range(4) for view in range(2)]
    assert all(Image.open(path).size == (64, 64) for path in views)
    assert views[0].read_bytes() != views[1].read_bytes()


def test_a_remembering_teacher_computes_each_map_once(tmp_path, monkeypatch):
    backbone = {"type": "PEBackbone", "variant": {**factory_material.STUDENT, "width": 24, "depth": 1}}
    torch.manual_seed(0)
    remembering = RememberedTeacher(str(tmp_path), backbone=backbone)
    torch.manual_seed(0)
    plain = ModuleTeacher(backbone=backbone)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        first = remembering(images[:2], [], (2, 2))
        torch.testing.assert_close(first, plain(images[:2], [], (2, 2)))
        monkeypatch.setattr(remembering.backbone, "forward", lambda _: pytest.fail("computed again"))
        again, summary = remembering.with_summary(images[[1, 0]], [], (2, 2), "mean")
    assert torch.equal(again, first[[1, 0]])
    assert torch.equal(summary, again.mean(dim=(2, 3)))


def test_one_frame_in_four_is_tracked(tmp_path):
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = tmp_path / "davis" / kind / "480p" / "swan"
        folder.mkdir(parents=True)
        for number in range(9):
            (folder / f"{number:05d}.{suffix}").touch()
    thinned = factory_material.thinned_videos(tmp_path / "davis", tmp_path / "thin")
    names = sorted(path.name for path in (thinned / "Annotations" / "480p" / "swan").iterdir())
    assert names == ["00000.png", "00004.png", "00008.png"]


def test_loading_from_shards_is_timed_beside_a_step(options, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_loading, "PHOTOGRAPHS", 6)
    shard = measure_loading.pack(options.data / "train2017", tmp_path / "0.tar")
    choices = argparse.Namespace(data=options.data / "train2017", weights=options.weights, output=tmp_path)
    monkeypatch.setattr(measure_loading, "time_training", lambda config, clock: config)
    config = measure_loading.measure(choices, [shard], 64, "none")
    config.model.student.variant = {**factory_material.STUDENT, "width": 24, "depth": 1}
    found = time_training(config)
    assert found.step > 0 and found.loading > 0 and found.teachers >= 0

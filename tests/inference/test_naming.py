"""Words for the objects of models whose classes do not matter, and for the masks of SAM 2."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image
from small_core import TINY, lively_core

from pe_spatial.backbones.text import Prompts, class_vectors, save_core
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import OptionError
from pe_spatial.inference.naming import InstanceNamer, sam2_masks
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe

pytest.importorskip("ftfy")
SHAPE = {**TINY, "image_size": 32, "cls_token": False}
WORDS = ("mug", "plate", "spoon")


@pytest.fixture(scope="module")
def core():
    return lively_core(SHAPE, 3)


@pytest.fixture
def image():
    return torch.from_numpy(np.random.default_rng(0).integers(256, size=(3, 40, 60), dtype=np.uint8))


def halves(image):
    masks = torch.zeros(2, *image.shape[1:], dtype=torch.bool)
    masks[0, :, :30] = masks[1, :, 30:] = True
    return masks


@torch.no_grad()
def test_a_mask_of_everything_has_the_words_of_the_picture(core, image):
    everything = torch.ones(1, *image.shape[1:], dtype=torch.bool)
    found = InstanceNamer(core, Prompts(WORDS)).probabilities(image, everything)
    feature = core.encode_image(core.preprocess(image)[None], normalize=True)
    vectors = class_vectors(core, Prompts(WORDS))
    torch.testing.assert_close(found, core.logits(feature, vectors).softmax(dim=-1))


def test_a_mask_is_named_by_what_it_covers(core, image):
    namer = InstanceNamer(core, Prompts(WORDS))
    left, right = namer.probabilities(image, halves(image))
    assert (left - right).abs().max() > 1e-4
    swapped = namer.probabilities(image, halves(image).flip(0))
    torch.testing.assert_close(swapped, torch.stack((right, left)))


def test_instances_get_labels_and_scores(core, image):
    namer = InstanceNamer(core, Prompts(WORDS))
    sample = BaseDataElement()
    sample.pred_instances = InstanceData(
        masks=halves(image), labels=torch.zeros(2, dtype=torch.long), scores=torch.tensor([0.9, 0.5])
    )
    expected, labels = namer.probabilities(image, halves(image)).max(dim=-1)
    named = namer.name(image, sample).pred_instances
    assert named.labels.tolist() == labels.tolist()
    torch.testing.assert_close(named.scores, expected * torch.tensor([0.9, 0.5]))


def test_mistakes(core, image):
    with pytest.raises(OptionError, match="'mug' is the only word, so every object would get it"):
        InstanceNamer(core, Prompts(("mug",)))
    namer = InstanceNamer(core, Prompts(WORDS))
    with pytest.raises(OptionError, match="do not fit the picture"):
        namer.probabilities(image, torch.ones(1, 8, 8, dtype=torch.bool))
    sample = BaseDataElement()
    sample.pred_instances = InstanceData(bboxes=torch.zeros(1, 4))
    with pytest.raises(OptionError, match="this model predicts only boxes; use a model"):
        namer.name(image, sample)
    assert namer.probabilities(image, torch.zeros(0, 40, 60, dtype=torch.bool)).shape == (0, 3)


def test_masks_of_sam2_are_taken_as_its_generator_gives_them(image):
    class Stub:
        def generate(self, pixels):
            assert pixels.shape == (40, 60, 3) and (pixels[2, 5] == image[:, 2, 5].numpy()).all()
            small, large = (np.zeros((40, 60), bool) for _ in range(2))
            small[:2, :2], large[10:] = True, True
            return [{"segmentation": mask, "area": int(mask.sum())} for mask in (small, large)]

    masks = sam2_masks(Stub(), image)
    assert masks.sum(dim=(1, 2)).tolist() == [30 * 60, 4]

    class Nothing:
        def generate(self, pixels):
            return []

    assert sam2_masks(Nothing(), image).shape == (0, 40, 60)


def test_the_objects_of_a_run_are_named_by_the_command(core, tmp_path, capsys):
    """An untrained model of objects of one class; its results have the words as categories, and go on after a stop."""
    from pe_spatial.training.config import load_config

    save_core(core, tmp_path / "core")
    config = load_config(
        "demo/mask_rcnn_tiny_shapes.yaml", ["model.num_classes=1", "model.roi_heads.score_threshold=0.0"]
    )
    torch.manual_seed(0)
    weights = MODELS.build(config.model).state_dict()
    path = tmp_path / "objects.pth"
    content = {"state_dict": weights, "pe_spatial": describe(config.to_dict(), {"classes": ("object",)})}
    save_checkpoint(content, path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(1).integers(256, size=(48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos/1.png")
    arguments = ["--checkpoint", path, "--encoder", tmp_path / "core", "--words", ",".join(WORDS), "--threshold", "0"]
    arguments += ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--device", "cpu"]
    assert run_command("predict", [str(argument) for argument in arguments]) == 0
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [category["name"] for category in found["categories"]] == list(WORDS)
    assert run_command("predict", [str(argument) for argument in arguments]) == 0
    assert "1 of 1 files were done by an earlier run" in capsys.readouterr().out
    arguments[5] = "mug,fork"
    assert run_command("predict", [str(argument) for argument in arguments]) == 2
    assert "contains the results of another run" in capsys.readouterr().err

"""What a detector's model sees in `--eval-only` is what the official evaluation shows it, on real pictures too."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from official_sizes import deta, detectron2
from PIL import Image, ImageOps

from pe_spatial.training.config import load_config

TINY = Path(__file__).parents[2].parent / "shared" / "data" / "coco_tiny"
# (mean, std) per channel in gray levels: Detectron2 normalizes bytes, DETA shares of 255
NORMALIZATION = {
    "mask_rcnn": torch.full((2, 3, 1, 1), 127.0),
    "deta": 255 * torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None],
}
# recipe: its family and the side of its canvas
RECIPES = {
    "mask_rcnn_pe_spatial_b_coco_36ep": ("mask_rcnn", 1024),
    "mask_rcnn_pe_core_g_coco_75ep": ("mask_rcnn", 1024),
    "deta_pe_spatial_b_coco_12ep": ("deta", 1024),
    "deta_pe_spatial_g_coco_12ep_1728px": ("deta", 1728),
    "deta_pe_spatial_g_coco_3ep_1824px": ("deta", 1824),
}


def official(path, family, canvas):
    """The pixels uint8 [3, h, w] of the official evaluation before it normalizes and pads them, by Pillow and numpy."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if family == "mask_rcnn":
        height, width = detectron2(image.height, image.width, canvas, canvas)
    else:
        height, width = deta(image.height, image.width, canvas - 32, canvas - 32)
        width = min(width, canvas)  # where theirs fails
    return torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR))).permute(2, 0, 1)


def compare(recipe, folder, annotations, images):
    """Every batch of the recipe's evaluation against the official tensors, in gray levels."""
    family, canvas = RECIPES[recipe]
    config = load_config(
        recipe,
        [
            f"val_dataloader.dataset.data_root={folder}",
            f"val_dataloader.dataset.ann_file={annotations}",
            f"val_dataloader.dataset.data_prefix.img_path={images}",
            "val_dataloader.num_workers=0",
            "val_dataloader.persistent_workers=false",
        ],
    )
    preprocessor = MODELS.build(config.model.data_preprocessor)
    mean, std = NORMALIZATION[family]
    seen = []
    for data in Runner.build_dataloader(config.val_dataloader, seed=0):
        batch = preprocessor(data)
        (inputs,), (sample,) = batch["inputs"], batch["data_samples"]
        expected = official(sample.img_path, family, canvas)
        height, width = expected.shape[1:]
        assert inputs.shape == (3, canvas, canvas)
        assert sample.img_shape == (height, width), f"{sample.img_path}: {sample.img_shape}, not {(height, width)}"
        assert not inputs[:, height:].any() and not inputs[:, :, width:].any()
        gray = inputs[:, :height, :width].mul_(std).add_(mean)
        difference = gray.sub_(expected).abs_().max()
        assert difference < 0.01, f"{sample.img_path}: {difference:.2f} gray levels"  # the rule is one
        seen.append(Path(sample.img_path).name)
    return seen


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """JPEGs whose sizes torchvision truncates, a gray one, one that is stored on its side, and thin ones."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    records = []
    for number, (height, width) in enumerate([(426, 640), (640, 427), (333, 500), (97, 61), (2, 700)]):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((width, height))
        noise = rng.integers(-20, 21, (height, width, 3))
        image = Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))
        image = image.convert("L") if number == 2 else image
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1  # a quarter turn
        image.save(folder / f"{number}.jpg", exif=exif)
        height, width = (width, height) if number == 1 else (height, width)
        records.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
    categories = [{"id": number, "name": str(number)} for number in range(80)]
    (folder / "a.json").write_text(json.dumps({"images": records, "categories": categories, "annotations": []}))
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_made_pictures(recipe, pictures):
    assert len(compare(recipe, pictures, "a.json", ".")) == 5


@pytest.mark.skipif(not TINY.is_dir(), reason="no real data beside the repository")
@pytest.mark.parametrize(
    ("recipe", "split"), [("mask_rcnn_pe_spatial_b_coco_36ep", "train"), ("deta_pe_spatial_g_coco_3ep_1824px", "val")]
)
def test_every_picture_of_coco_tiny(recipe, split):
    seen = compare(recipe, TINY, f"annotations/instances_{split}2017.json", f"{split}2017")
    assert sorted(seen) == sorted(path.name for path in (TINY / f"{split}2017").iterdir())


def test_all_evaluations_of_a_family_resize_alike():
    """LVIS as COCO, Objects365 as COCO's boxes."""
    for one, other in (("coco_instance", "lvis_instance"), ("coco_boxes", "objects365")):
        steps = [load_config(f"_base_/datasets/{name}.yaml").val_dataloader.dataset.pipeline for name in (one, other)]
        assert steps[0] == steps[1] and steps[0][1].type == "KeepRatioResize"

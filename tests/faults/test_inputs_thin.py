"""Images so thin that a whole multiple, a legend or a sheet of them could fill the memory stay small however drawn."""

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torchvision import tv_tensors

from pe_spatial.common.errors import PictureError
from pe_spatial.doctor.sheet import draw_tile
from pe_spatial.tracking.resizing import Resizing
from pe_spatial.visualization import draw_prediction, enlarge
from pe_spatial.visualization.sheets import save_sheet

SIZES = [(1, 20_000), (20_000, 1), (1, 300_000), (300_000, 1), (1, 1), (2, 1), (1, 2), (5000, 1), (3, 4000)]
MOST = 8_000_000  # pixels of a picture
METAINFO = {"classes": ("one", "two"), "palette": [[9, 9, 9], [200, 0, 0]]}


def prediction(kind, height, width):
    sample = BaseDataElement()
    if kind == "classes":
        sample.pred_sem_seg = PixelData(data=torch.ones(1, height, width, dtype=torch.uint8))
    elif kind == "depth":
        sample.pred_depth = PixelData(data=torch.rand(1, height, width) + 1)
    else:
        boxes = torch.tensor([[0.0, 0.0, width, height]])
        masks = torch.ones(1, height, width, dtype=torch.bool)
        sample.pred_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]), masks=masks)
    return sample


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["classes", "depth", "instances"])
def test_the_drawing_of_a_thin_image_is_small(kind, size):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    drawn = draw_prediction(image, prediction(kind, *size), METAINFO)
    assert drawn.dtype == torch.uint8 and min(drawn.shape) >= 1
    assert drawn.shape[1] * drawn.shape[2] < MOST


def test_a_small_image_is_enlarged_as_before_and_a_thin_one_up_to_a_side():
    assert enlarge(torch.zeros(3, 100, 150, dtype=torch.uint8))[1] == 5
    assert enlarge(torch.zeros(3, 16, 1000, dtype=torch.uint8))[1] == 4  # 4096 at most
    assert enlarge(torch.zeros(3, 1, 20_000, dtype=torch.uint8))[1] == 1


class OneImage:
    metainfo = METAINFO

    def get_data_info(self, _):
        return {"img_path": "thin.png"}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_sheet_of_thin_images_is_small(tmp_path, size):
    boxes = tv_tensors.BoundingBoxes([[0.0, 0.0, size[1], size[0]]], format="XYXY", canvas_size=size)
    sample = {
        "img": tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8)),
        "boxes": boxes,
        "labels": torch.tensor([1]),
        "masks": tv_tensors.Mask(torch.ones(1, *size, dtype=torch.bool)),
    }
    tile = draw_tile(OneImage(), 0, sample, [])
    assert tile.shape[1] * tile.shape[2] < MOST
    save_sheet(tmp_path / "sheet.png", "title", [tile] * 2)
    assert (tmp_path / "sheet.png").stat().st_size < 2**20


def test_a_thin_frame_is_refused_before_the_encoder_sees_it():
    resizing = Resizing(short_side=64)
    assert resizing.size((64, 64 * 32), 8) == (64, 64 * 32)
    with pytest.raises(PictureError, match="1 x 20000 pixels .* too thin"):
        resizing.size((1, 20_000), 8)

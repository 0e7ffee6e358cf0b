"""Pictures of predictions while a model is validated."""

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.pictures import read_image, save_image
from pe_spatial.training.progress import is_training
from pe_spatial.visualization import colorize_depth, draw_instances, overlay_masks


@HOOKS.register_module()
class PictureHook(Hook):
    """Draws the predictions of the first validation images into `pictures/` of the work folder and into TensorBoard.

    Args:
        number: How many images.
        threshold: Instances with a lower score are left out.
    """

    priority = "LOW"

    def __init__(self, number: int = 8, threshold: float = 0.5) -> None:
        self.number = number
        self.threshold = threshold
        self._drawn = 0

    def before_val(self, runner: Runner) -> None:
        """Start over."""
        self._drawn = 0

    def before_test(self, runner: Runner) -> None:
        """Start over."""
        self._drawn = 0

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw."""
        self._draw(runner, outputs, runner.val_dataloader.dataset)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw."""
        self._draw(runner, outputs, runner.test_dataloader.dataset)

    def _draw(self, runner: Runner, samples: list[BaseDataElement], dataset: Any) -> None:
        if not is_main_process():
            return
        iteration = runner.iter if is_training(runner) else 0
        folder = Path(runner.work_dir) / "pictures" / (f"iter_{iteration}" if iteration else "")
        classes = (getattr(dataset, "metainfo", None) or {}).get("classes", ())
        for sample in samples[: self.number - self._drawn]:
            path = sample.metainfo.get("img_path")
            if path is None:
                continue
            picture = draw_prediction(read_image(path), sample, classes, self.threshold)
            pixels = picture.permute(1, 2, 0).contiguous().numpy()  # [H, W, 3]
            save_image(folder / f"{self._drawn:02d}_{Path(path).stem}.jpg", pixels)
            runner.visualizer.add_image(f"prediction/{self._drawn:02d}", pixels, step=iteration)
            self._drawn += 1


def draw_prediction(image: Tensor, sample: BaseDataElement, classes: Any, threshold: float = 0.5) -> Tensor:
    """Draw what a data sample holds of `pred_sem_seg`, `pred_instances` and `pred_depth`.

    Args:
        image: uint8 [3, H, W], the original image.
        sample: A prediction in the frame of that image.
        classes: Names by label.
        threshold: Instances with a lower score are left out.

    Returns:
        uint8 [3, H', W']; a depth map stands to the right of the image.
    """
    picture = image.as_subclass(Tensor)
    if "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data.cpu().reshape(image.shape[-2:])
        picture = overlay_masks(picture, labels + 1)  # 0 would be background
    if "pred_instances" in sample:
        picture = draw_instances(picture, sample.pred_instances, classes, threshold)
    if "pred_depth" in sample and picture.shape == image.shape:
        picture = torch.cat([picture, colorize_depth(sample.pred_depth.data)], dim=2)
    return picture

"""Pictures of predictions while a model is validated."""

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pe_spatial.common.pictures import save_image
from pe_spatial.data import LoadImage
from pe_spatial.training.progress import is_training
from pe_spatial.visualization import draw_prediction


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

    before_test = before_val

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        """Draw."""
        if mode == "train" or not is_main_process():
            return
        iteration = runner.iter if is_training(runner) else 0
        folder = Path(runner.work_dir) / "pictures" / (f"iter_{iteration}" if iteration else "")
        dataset = getattr(runner, f"{mode}_dataloader").dataset
        metainfo = getattr(dataset, "metainfo", None) or {}
        steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
        load = next((step for step in steps if isinstance(step, LoadImage)), LoadImage())  # shows values as it does
        for sample in outputs[: self.number - self._drawn]:
            path = sample.metainfo.get("img_path")
            if path is None:
                continue
            picture = draw_prediction(load({"img_path": path})["img"], sample, metainfo, self.threshold)
            pixels = picture.permute(1, 2, 0).contiguous().numpy()  # [H, W, 3]
            save_image(folder / f"{self._drawn:02d}_{Path(path).stem}.jpg", pixels)
            runner.visualizer.add_image(f"prediction/{self._drawn:02d}", pixels, step=iteration)
            self._drawn += 1

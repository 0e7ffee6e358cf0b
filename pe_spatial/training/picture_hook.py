"""Pictures of predictions while a model is validated."""

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from pe_spatial.common.errors import UserError, require_positive
from pe_spatial.common.pictures import save_image
from pe_spatial.data import LoadInstances
from pe_spatial.training.progress import is_training
from pe_spatial.training.result_pictures import reader_of
from pe_spatial.visualization import draw_compared
from pe_spatial.visualization.layout import shrink

_SEARCHED = 1000  # records of a dataset that are asked for the labels of a picture; the first pictures come first


@HOOKS.register_module()
class PictureHook(Hook):
    """Draws the first validation images into `pictures/` of the work folder and into TensorBoard.

    The prediction stands beside the annotation, where there is one.

    Args:
        number: How many images.
        threshold: Instances with a lower score are left out.
        tensorboard_side: Pixels of the longer side from which on pictures for TensorBoard are reduced: its file grows
            with every validation. Those in `pictures/` keep their size.
    """

    priority = "LOW"

    def __init__(self, number: int = 8, threshold: float = 0.5, tensorboard_side: int = 1024) -> None:
        require_positive(tensorboard_side=tensorboard_side)
        self.number = number
        self.threshold = threshold
        self.tensorboard_side = tensorboard_side
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
        read = reader_of(dataset)
        for sample in outputs[: self.number - self._drawn]:
            path = sample.metainfo.get("img_path")
            if path is None:
                continue
            picture = self._draw(read(path), sample, dataset)
            save_image(folder / f"{self._drawn:02d}_{Path(path).stem}.jpg", picture)
            small = shrink(picture, self.tensorboard_side).permute(1, 2, 0).contiguous().numpy()  # [H, W, 3]
            runner.visualizer.add_image(f"prediction/{self._drawn:02d}", small, step=iteration)
            self._drawn += 1

    def _draw(self, image: Tensor, sample: Any, dataset: Any) -> Tensor:
        metainfo = getattr(dataset, "metainfo", None) or {}
        return draw_compared(image, labels_of(sample, dataset, image), sample, metainfo, self.threshold)


def labels_of(sample: Any, dataset: Any, image: Tensor) -> dict[str, Tensor]:
    """The labels of an image in its own pixels: those that its data sample has, or else those of its record.

    Args:
        sample: A data sample.
        dataset: That it comes from.
        image: uint8 [3, H, W].
    """
    size, labels = image.shape[-2:], {}
    for field, key in (("gt_sem_seg", "sem_seg"), ("gt_depth", "depth")):
        if field in sample and sample.get(field).data.shape[-2:] == size:
            labels[key] = sample.get(field).data.cpu()
    found = sample.get("gt_instances")
    if found is not None and len(found):
        keys = {"bboxes": "boxes", "labels": "labels", "masks": "masks"}
        columns = {new: found[old] for old, new in keys.items() if old in found}
        return labels | {key: column.cpu() for key, column in columns.items() if isinstance(column, Tensor)}
    record = {} if labels else _record(sample.metainfo.get("img_path"), dataset)
    if record.get("instances") is not None:
        masks = bool(record["instances"]) and all("mask" in item for item in record["instances"])
        try:
            loaded = LoadInstances(masks=masks, empty="drop")({**record, "img": image, "ori_shape": tuple(size)})
        except UserError as error:  # what the metric makes of such an annotation is its own affair
            MMLogger.get_current_instance().warning(f"shown without its annotation: {error}")
            return {}
        return {key: loaded[key] for key in ("boxes", "labels", "masks") if key in loaded}
    return labels


def _record(path: Any, dataset: Any) -> dict[str, Any]:
    """The record of an image, if it is among the first of its dataset."""
    for index in range(min(len(dataset), _SEARCHED) if hasattr(dataset, "get_data_info") else 0):
        record = dataset.get_data_info(index)
        if record.get("img_path") == path:
            return record
    return {}

"""The measures of depth estimation, per image in float64; the regions and alignments of the literature; the metric."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from pe_spatial.common.errors import ConfigError, DivergedError, OptionError
from pe_spatial.data.sample import check_frame
from pe_spatial.depth.ranges import checked_range
from pe_spatial.training.explanation import ExplainedMetric, Explanation, percent
from pe_spatial.training.explanation import Measure as Shown
from pe_spatial.visualization.depth_errors import draw_errors


# --- measures ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Measure:
    """A function of prediction and measurement, both float64 [P] over the valid pixels of one image."""

    function: Callable[[Tensor, Tensor], Tensor]
    lower_is_better: bool
    meaning: str

    @property
    def arrow(self) -> str:
        """The direction of improvement."""
        return "↓" if self.lower_is_better else "↑"


def _log_error(p: Tensor, t: Tensor) -> Tensor:
    return p.log() - t.log()


def _within(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, t: (torch.maximum(p / t, t / p) < factor).double().mean()


MEASURES: dict[str, Measure] = {
    "rmse": Measure(lambda p, t: (p - t).square().mean().sqrt(), True, "root of the mean squared error, meters"),
    "rmse_log": Measure(lambda p, t: _log_error(p, t).square().mean().sqrt(), True, "the same of ln depth"),
    "abs_rel": Measure(lambda p, t: ((p - t).abs() / t).mean(), True, "mean error / depth"),
    "sq_rel": Measure(lambda p, t: ((p - t).square() / t).mean(), True, "mean squared error / depth, meters"),
    "log10": Measure(lambda p, t: (p.log10() - t.log10()).abs().mean(), True, "mean error of log10 depth"),
    "silog": Measure(lambda p, t: 100 * _log_error(p, t).std(correction=0), True, "100 x deviation of the ln error"),
    "delta1": Measure(_within(1.25), False, "share of pixels within a factor of 1.25"),
    "delta2": Measure(_within(1.25**2), False, "within 1.25 squared"),
    "delta3": Measure(_within(1.25**3), False, "within 1.25 cubed"),
}


# --- regions: the part of an image whose pixels are judged ------------------------------------------------------------
Region = tuple[slice, slice]  # rows, columns


def nyu_eigen(height: int, width: int) -> Region:
    """Rows 45-470 and columns 41-600: where the colors of NYUv2 lie over measured depth.

    Raises:
        ConfigError: Another frame than 480x640, in which the numbers have no meaning.
    """
    if (height, width) != (480, 640):
        raise ConfigError(
            f"the crop nyu_eigen is defined for 480x640, but the depth map is {height}x{width}; evaluate at the size "
            "of NYUv2 or choose another crop"
        )
    return slice(45, 471), slice(41, 601)


def garg(height: int, width: int) -> Region:
    """KITTI after Garg et al. (2016): the part of the frame that the lidar covers."""
    return _fraction(height, width, (0.40810811, 0.99189189), (0.03594771, 0.96405229))


def kitti_eigen(height: int, width: int) -> Region:
    """KITTI after Eigen et al. (2014)."""
    return _fraction(height, width, (0.3324324, 0.91351351), (0.0359477, 0.96405229))


def _fraction(height: int, width: int, rows: tuple[float, float], columns: tuple[float, float]) -> Region:
    return slice(int(rows[0] * height), int(rows[1] * height)), slice(int(columns[0] * width), int(columns[1] * width))


CROPS: dict[str, Callable[[int, int], Region]] = {"nyu_eigen": nyu_eigen, "garg": garg, "kitti_eigen": kitti_eigen}


# --- alignments: what a relative model cannot know --------------------------------------------------------------------
# all take the valid pixels of one image as float64 [P] and return the aligned prediction [P]
def align_median(prediction: Tensor, target: Tensor) -> Tensor:
    """Multiply by the ratio of the medians (Zhou et al. 2017).

    Raises:
        OptionError: The median of the prediction is not positive.
    """
    median = _median(prediction)
    if not median > 0:
        raise OptionError(f"the median of the prediction is {median:g}; median alignment needs positive depth")
    return prediction * (_median(target) / median)


def align_scale_shift(prediction: Tensor, target: Tensor) -> Tensor:
    """Return scale * prediction + shift with the least squared error against the target.

    A constant prediction determines no scale; it becomes the mean of the target.
    """
    mean, target_mean = prediction.mean(), target.mean()
    centered = prediction - mean
    power = centered.square().sum()
    if power <= (torch.finfo(prediction.dtype).eps * mean) ** 2 * len(prediction):
        return target_mean.expand_as(prediction)
    scale = (centered * (target - target_mean)).sum() / power
    return scale * centered + target_mean


def _median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the two in the middle; torch.median takes the lower of them."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


ALIGNMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "median": align_median,
    "scale_shift": align_scale_shift,
}


# --- how they are shown -----------------------------------------------------------------------------------------------
def _shown(name: str, measure: Measure) -> Shown:
    if not measure.lower_is_better:
        return percent(name, measure.meaning)
    unit = "m" if measure.meaning.endswith(", meters") else ""
    return Shown(name, measure.meaning.removesuffix(", meters"), unit=unit, digits=3, higher_is_better=False)


SHOWN: dict[str, Shown] = {name: _shown(name, measure) for name, measure in MEASURES.items()}
SHOWN["rmse"] = Shown("RMSE", MEASURES["rmse"].meaning, unit="m", digits=3, higher_is_better=False)
SHOWN["abs_rel"] = Shown("AbsRel", MEASURES["abs_rel"].meaning, 100, "%", 1, higher_is_better=False)
SHOWN["delta1"] = percent("δ1", MEASURES["delta1"].meaning)


# --- the metric -------------------------------------------------------------------------------------------------------
@METRICS.register_module()
class DepthErrorMetric(ExplainedMetric):
    """RMSE, RMSE-log, AbsRel, SqRel, log10, SILog and the deltas: the mean over images of the value of each image.

    A pixel counts where its measurement lies strictly inside the range and the crop, as in the code of BTS, AdaBins
    and DINOv2. The prediction is aligned first, where that is asked for, and then clamped to the range.

    The results are called `depth/rmse`, and `depth_median_aligned/rmse` or `depth_scale_shift_aligned/rmse` with an
    alignment: numbers with and without one must not be compared.

    Args:
        depth_range: (least, greatest) measured depth that counts, in meters.
        crop: The region that counts; None for the whole frame.
        alignment: What is fitted to the measurement, per image, before judging; a relative model needs one.
        collect_device: Where mmengine gathers results of several processes.
    """

    headline = ("rmse", "abs_rel", "delta1")
    measures = SHOWN
    image_measure = SHOWN["abs_rel"]

    def __init__(
        self,
        depth_range: Sequence[float],
        crop: Literal["nyu_eigen", "garg", "kitti_eigen"] | None = None,
        alignment: Literal["median", "scale_shift"] | None = None,
        collect_device: str = "cpu",
    ) -> None:
        for name, value, known in (("crop", crop, CROPS), ("alignment", alignment, ALIGNMENTS)):
            if value is not None and value not in known:
                raise OptionError(f"{name}={value!r} is not one of {', '.join(known)} or null")
        self.depth_range = checked_range(depth_range)
        self.crop = crop
        self.alignment = alignment
        super().__init__(collect_device, prefix="depth" if alignment is None else f"depth_{alignment}_aligned")

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Judge predictions in the frame of their measurement.

        Args:
            data_batch: Not used.
            data_samples: With `pred_depth` and `gt_depth`, data [1, H, W] of one size, and `depth_is_metric`.

        Raises:
            ConfigError: A relative prediction without an alignment, or another size than the measurement.
            DivergedError: A prediction that is not finite.
        """
        for sample in data_samples:
            self._judge(sample)

    def _judge(self, sample: dict[str, Any]) -> None:
        name = sample.get("img_path")
        if not sample["depth_is_metric"] and self.alignment is None:
            raise ConfigError(
                "the model predicts relative depth, which cannot be compared with meters; set alignment to "
                f"{' or '.join(ALIGNMENTS)} in {type(self).__name__}, or evaluate a metric checkpoint"
            )
        prediction, target = (sample[key]["data"].cpu() for key in ("pred_depth", "gt_depth"))
        check_frame(name, prediction, target, "depth map")
        # compared in the precision of the files: 0.001 of float32 lies above 0.001 of float64
        valid = (target > self.depth_range[0]) & (target < self.depth_range[1])
        measured = target > 0
        if self.crop is not None:
            inside = torch.zeros_like(valid)
            inside[(..., *CROPS[self.crop](target.shape[-2], target.shape[-1]))] = True
            valid, measured = valid & inside, measured & inside
        extremes = (float(target[measured].min()), float(target[measured].max())) if measured.any() else None
        if not valid.any():
            self.keep(sample, math.nan, None, values=None, extremes=extremes)
            return
        judged = self._align(prediction[valid], target[valid], name)
        values = depth_errors(judged, target[valid])
        shown = prediction
        if self.alignment is not None:  # what was not fitted has no place on the scale of the measurement
            shown = torch.zeros_like(target).masked_scatter(valid, judged.to(target.dtype))
        self.keep(sample, values["abs_rel"], (target * valid, shown), values=values, extremes=extremes)

    def _align(self, prediction: Tensor, target: Tensor, name: str | None) -> Tensor:
        """The valid pixels [P] as they are judged, in float64."""
        if not prediction.isfinite().all():
            raise DivergedError(
                f"{name}: the prediction contains NaN or infinite values: the training has diverged; lower the "
                f"learning rate"
            )
        prediction, target = prediction.double(), target.double()
        if self.alignment is not None:
            prediction = ALIGNMENTS[self.alignment](prediction, target)
        return prediction.clamp(*self.depth_range)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """The mean of every measure over the images that have a valid pixel; the others are counted and logged.

        Raises:
            ConfigError: No image has one.
        """
        judged = [result["values"] for result in results if result["values"] is not None]
        if not judged:
            measured = [result["extremes"] for result in results if result["extremes"] is not None]
            least, greatest = (min(m[0] for m in measured), max(m[1] for m in measured)) if measured else (None, None)
            found = "no measurement at all" if least is None else f"measurements of {least:g} to {greatest:g} m"
            raise ConfigError(
                f"no pixel is inside the range {self.depth_range} m: the {len(results)} depth maps hold {found}"
                f"{f' in the crop {self.crop}' if self.crop else ''}; correct depth_range or the scale of the files"
            )
        means = {name: sum(values[name] for values in judged) / len(judged) for name in MEASURES}
        if len(judged) < len(results):
            print_log(
                f"{len(results) - len(judged)} of {len(results)} depth maps have no valid pixel", logger="current"
            )
        print_log(f"{self.prefix}: {table(means)}", logger="current")
        self.explanation = Explanation(ranking=self.rank(results, lambda maps, image: draw_errors(image, *maps)))
        return means


def depth_errors(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """All `MEASURES` of one image.

    Args:
        prediction: Positive depth in meters [P], at least one pixel.
        target: Measured depth of the same pixels.
    """
    prediction, target = prediction.double(), target.double()
    return {name: measure.function(prediction, target).item() for name, measure in MEASURES.items()}


def table(values: dict[str, float]) -> str:
    """Values with their directions, on one line."""
    return "  ".join(f"{name}{MEASURES[name].arrow} {value:.4f}" for name, value in values.items())

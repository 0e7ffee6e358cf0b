"""From a prediction to what a client gets: JSON, a drawn picture, or a map of values."""

import json
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pe_spatial.common.errors import OptionError
from pe_spatial.inference.sample import PredictedSample, instance_rows
from pe_spatial.visualization import class_colors, class_names

Form = Literal["json", "picture", "map"]
_DEEPEST = 65535  # of 16 bits


def render(sample: PredictedSample, form: Form, threshold: float) -> tuple[bytes, str]:
    """The body of an answer and its media type.

    Args:
        sample: Of a predictor.
        form: What is asked for.
        threshold: Instances that score less are left out.

    Raises:
        OptionError: A map of a model that gives none.
    """
    kept = sample.cpu().filter(threshold)
    if form == "json":
        return json.dumps(describe(kept), allow_nan=False).encode(), "application/json"
    return _png(Image.fromarray(kept.draw()) if form == "picture" else value_map(kept)), "image/png"


def describe(sample: PredictedSample) -> dict[str, Any]:
    """What a prediction holds, for JSON; boxes [x, y, width, height] and areas in pixels of the picture.

    Returns:
        `height` and `width`; of a detector `instances`, with masks as COCO's compressed RLE; of a segmenter `pixels` by
        class; of panoptic models `segments`; of depth models its extremes.
    """
    height, width = sample.metainfo["ori_shape"][:2]
    content: dict[str, Any] = {"height": int(height), "width": int(width)}
    if "pred_instances" in sample:
        names = class_names(sample.dataset, sample.pred_instances.labels)
        content["instances"] = [{"name": names[row["label"]], **row} for row in instance_rows(sample.pred_instances)]
    if "pred_panoptic" in sample:
        from pe_spatial.segmentation.results import describe_segments  # a detector does without mmseg

        rows = describe_segments(sample.pred_panoptic.data[0].numpy(), sample.segments)
        content["segments"] = [{"name": sample.classes[row["label"]], **row} for row in rows]
    if "pred_sem_seg" in sample:
        labels, counts = sample.pred_sem_seg.data.unique(return_counts=True)
        names = class_names(sample.dataset, labels)
        pairs = zip(labels.tolist(), counts.tolist(), strict=True)
        content["pixels"] = {names[label]: count for label, count in pairs}
    if "pred_depth" in sample:
        depth, is_metric = sample.pred_depth.data, bool(sample.depth_is_metric)
        content["depth"] = {
            "kind": "metric" if is_metric else "relative",
            "unit": "meters" if is_metric else "none",
            "min": round(float(depth.min()), 5),
            "max": round(float(depth.max()), 5),
        }
    return content


def value_map(sample: PredictedSample) -> Image.Image:
    """The values of the pixels, at the size of the picture, as `pe-spatial predict` writes them.

    Segments are numbers R + 256 G + 65536 B, classes are indices (a palette up to 256 of them, else 16 bits), metric
    depth is millimeters of 16 bits, and of relative depth 65535 is the far end of the range of the model.

    Raises:
        OptionError: The model gives no map.
    """
    if "pred_panoptic" in sample:
        ids: NDArray[Any] = sample.pred_panoptic.data[0].numpy()
        return Image.fromarray(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8))
    if "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data[0].numpy()
        if len(sample.classes) > 256:
            return Image.fromarray(labels.astype(np.uint16))
        indexed = Image.fromarray(labels.astype(np.uint8))
        colors = class_colors(sample.classes, sample.dataset.get("palette"))
        indexed.putpalette(np.asarray(colors, np.uint8).tobytes())
        return indexed
    if "pred_depth" in sample:
        units = 1000.0 if sample.depth_is_metric else _DEEPEST / float(sample.depth_range[1])
        values = np.round(sample.pred_depth.data[0].float().numpy() * units)
        return Image.fromarray(np.clip(values, 0, _DEEPEST).astype(np.uint16))
    raise OptionError("this model gives objects and no map; ask for format=json or format=picture")


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # four times as fast as 6, for files that are a little larger
    return buffer.getvalue()

"""Files to tv_tensors: images, instances, label maps, depth maps and video frames.

Every loader is a pipeline step: it reads the record's keys named in `pe_spatial.data.sample` and adds the sample's.
Labels are in the frame of the decoded image (`ori_shape`), so a label loader may stand after the last resize of a
validation pipeline; a prediction is then judged at the resolution of its annotation.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import PictureError, UnreadableFile
from pe_spatial.common.sources import resolve_sources
from pe_spatial.data.sample import IGNORE_LABEL


# --- images -----------------------------------------------------------------------------------------------------------
def read_image(
    source: str | Path | bytes | IO[bytes], apply_exif: bool = True, archive: tuple[str, int, int] | None = None
) -> tv_tensors.Image:
    """The image as uint8 RGB [3, H, W].

    Grayscale, palette and CMYK images are converted, 16-bit grayscale is reduced to its upper 8 bits, and an alpha
    channel is dropped (the stored colors count, also where they are transparent).

    Args:
        source: A file, its content, or a binary file object; where `archive` is given, only the name of the image.
        apply_exif: Turn the image as its EXIF orientation says.
        archive: (file, offset, bytes) of an image that lies in a larger file.

    Raises:
        UnreadableFile: The file is missing, damaged or no image.
    """
    name = source if isinstance(source, str | Path) else getattr(source, "name", f"an image in {type(source).__name__}")
    with _naming(name):
        content = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(content if archive is None else _cut_out(*archive)) as image:
            if apply_exif:
                ImageOps.exif_transpose(image, in_place=True)  # without it, even an upright image would be copied
            return to_image(image)


def _cut_out(path: str, offset: int, num_bytes: int) -> BytesIO:
    with open(path, "rb") as file:
        file.seek(offset)
        return BytesIO(file.read(num_bytes))


def to_image(
    image: Image.Image | NDArray[np.uint8] | Tensor, channels: Literal["rgb", "bgr"] = "rgb"
) -> tv_tensors.Image:
    """A picture held in memory as uint8 RGB [3, H, W].

    Args:
        image: A PIL image, or uint8: an array [H, W], [H, W, 3] or [H, W, 4], or a tensor [1, H, W], [3, H, W] or
            [4, H, W]. A fourth channel is alpha, and dropped.
        channels: The order of the first three in arrays and tensors; OpenCV's is "bgr".

    Raises:
        PictureError: Another shape, type or order.
    """
    if channels not in ("rgb", "bgr"):
        raise PictureError(f"channels {channels!r} is not an order of colors; it is 'rgb' or 'bgr'")
    if isinstance(image, Image.Image):
        return tv_tensors.Image(F.pil_to_tensor(_to_rgb(image)))
    pixels: Any = image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        pixels = torch.from_numpy(np.array(image if image.ndim == 3 else image[..., None])).permute(2, 0, 1)
    known = isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3
    if not known or len(pixels) not in (1, 3, 4) or 0 in pixels.shape:
        described = f"{type(image).__name__} {getattr(image, 'dtype', '')} {list(getattr(image, 'shape', ()))}"
        raise PictureError(
            f"{described} is not an image; pass a PIL image, a uint8 array [H, W], [H, W, 3] or [H, W, 4], or a uint8 "
            "tensor [1, H, W] or [3, H, W]"
        )
    pixels = pixels.repeat(3, 1, 1) if len(pixels) == 1 else pixels[:3]
    return tv_tensors.Image(pixels.flip(0) if channels == "bgr" else pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise PictureError("floating-point images have no fixed range; convert the file to 8 bits per channel")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError(
                f"32-bit values {values.min()}…{values.max()} exceed 16 bits; convert the file to 8 bits"
            )
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


@TRANSFORMS.register_module()
class LoadImage(Loader):
    """`img_path` (or an `img` in memory, see `to_image`) to `img` and `ori_shape`.

    The EXIF orientation is applied, so pixels stand as a viewer shows them. Where a record has `height` and `width`
    they must be those of the image, for boxes and masks are drawn on that frame.

    Args:
        apply_exif: False for annotations that were made on the pixels as stored.
    """

    needs_labels = False

    def __init__(self, apply_exif: bool = True) -> None:
        self.apply_exif = apply_exif

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one image.

        Raises:
            UnreadableFile: The file is missing, damaged or no image.
            ValueError: The image has another size than its record says.
        """
        if "img" in sample:
            image = to_image(sample["img"])
        else:
            image = read_image(sample["img_path"], self.apply_exif, sample.get("archive"))
        size = (image.shape[-2], image.shape[-1])
        recorded = (sample.get("height", size[0]), sample.get("width", size[1]))
        if recorded != size:
            raise ValueError(
                f"{sample.get('img_path', 'image')}: the image is {size} (H, W) but its record says {recorded}; "
                "correct the annotation, or set apply_exif=False if it was made on the pixels as stored"
            )
        return {**sample, "img": image, "ori_shape": size}


# --- instances --------------------------------------------------------------------------------------------------------
@TRANSFORMS.register_module()
class LoadInstances(Loader):
    """`instances` to `boxes`, `labels` and `masks`.

    Boxes are clipped to the image. The list itself is taken out of the sample: transforms would walk through every
    coordinate of every polygon.

    Args:
        masks: Decode masks too.
        ignored: What to do with instances marked `ignore` (crowds): "drop" them, as Detectron2's training does, or
            "keep" them apart in `ignored_boxes` and `ignored_masks`.
        empty: What to do with a box that has no area inside the image.
    """

    def __init__(
        self,
        masks: bool = True,
        ignored: Literal["drop", "keep"] = "drop",
        empty: Literal["raise", "drop"] = "raise",
    ) -> None:
        _check_choice("ignored", ignored, ("drop", "keep"))
        _check_choice("empty", empty, ("raise", "drop"))
        self.masks = masks
        self.ignored = ignored
        self.empty = empty

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load the instances of one image.

        Raises:
            ValueError: No image before, an empty box (unless dropped), or a mask that cannot be decoded.
        """
        size = _frame(sample, "LoadInstances")
        instances = [item for item in sample.get("instances", ()) if self._usable(sample, item, size)]
        objects = [item for item in instances if not item.get("ignore", False)]
        loaded = {name: value for name, value in sample.items() if name != "instances"}
        loaded["boxes"] = _boxes(objects, size)
        loaded["labels"] = torch.tensor([item["label"] for item in objects], dtype=torch.int64)
        if self.masks:
            loaded["masks"] = _masks(sample, objects, size)
        if self.ignored == "keep":
            regions = [item for item in instances if item.get("ignore", False)]
            loaded["ignored_boxes"] = _boxes(regions, size)
            if self.masks:
                loaded["ignored_masks"] = _masks(sample, regions, size)
        return loaded

    def _usable(self, sample: dict[str, Any], item: dict[str, Any], size: tuple[int, int]) -> bool:
        x1, y1, x2, y2 = item["bbox"]
        if min(x2, size[1]) > max(x1, 0) and min(y2, size[0]) > max(y1, 0):
            return True
        if self.empty == "drop":
            return False
        raise ValueError(
            f"{_file(sample)}: box {[x1, y1, x2, y2]} (xyxy) has no area inside the image of {size} (H, W); correct "
            "the annotation, or set empty='drop' in LoadInstances"
        )


def _boxes(instances: Sequence[dict[str, Any]], size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    boxes = torch.tensor([item["bbox"] for item in instances], dtype=torch.float32).reshape(-1, 4)  # [N, 4]
    boxes[:, 0::2].clamp_(0, size[1])
    boxes[:, 1::2].clamp_(0, size[0])
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)


def _masks(sample: dict[str, Any], instances: Sequence[dict[str, Any]], size: tuple[int, int]) -> tv_tensors.Mask:
    masks = torch.zeros(len(instances), *size, dtype=torch.bool)  # [N, H, W]
    for row, item in zip(masks, instances, strict=True):
        try:
            row.copy_(torch.from_numpy(decode_mask(item["mask"], size)))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{_file(sample)}: the mask of box {list(item['bbox'])} cannot be decoded: {error!r}; give polygons "
                "[[x, y, x, y, …], …] of three points or more, or an RLE of the image's size"
            ) from error
    return tv_tensors.Mask(masks)


def decode_mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A COCO segmentation as bool [H, W].

    Args:
        segmentation: Polygons [[x, y, …], …] in pixels, or an RLE {size: [H, W], counts: list, str or bytes}.
        size: (H, W) of the image.

    Raises:
        ValueError: A polygon of fewer than three points or an odd number of coordinates, or an RLE of another size.
    """
    H, W = size
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [H, W]:
            raise ValueError(f"an RLE of size {list(segmentation['size'])} in an image of {[H, W]} (H, W)")
        is_plain = isinstance(segmentation["counts"], list)
        if is_plain and sum(segmentation["counts"]) != H * W:
            raise ValueError(f"an RLE of {sum(segmentation['counts'])} pixels in an image of {H * W}")
        rle = coco_mask.frPyObjects(segmentation, H, W) if is_plain else segmentation
    else:
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f"a polygon of {len(polygon)} coordinates")
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, H, W))
    return coco_mask.decode(rle).astype(bool)


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A bool mask [H, W] as a compressed COCO RLE {size, counts} that JSON can hold; `decode_mask` inverts it."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


# --- maps -------------------------------------------------------------------------------------------------------------
@TRANSFORMS.register_module()
class LoadLabelMap(Loader):
    """`seg_map_path`, a PNG of class indices (grayscale or palette), to `sem_seg`.

    Args:
        zero_is_ignored: The file counts classes from 1 and 0 means "no label" (ADE20K): k becomes k-1, 0 becomes 255.
        num_classes: Where given, any other index than 0…num_classes-1 and 255 is an error.
    """

    def __init__(self, zero_is_ignored: bool = False, num_classes: int | None = None) -> None:
        self.zero_is_ignored = zero_is_ignored
        self.num_classes = num_classes

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one label map.

        Raises:
            UnreadableFile: The file is missing, damaged or no image.
            ValueError: Colors instead of indices, another size than the image, or an index out of range.
        """
        path = sample["seg_map_path"]
        labels = torch.from_numpy(_read_indices(path)).long()[None]  # [1, H, W]
        _check_size(path, labels, sample, "LoadLabelMap")
        if self.zero_is_ignored:
            labels = torch.where((labels == 0) | (labels == IGNORE_LABEL), IGNORE_LABEL, labels - 1)
        if self.num_classes is not None:
            wrong = labels[(labels >= self.num_classes) & (labels != IGNORE_LABEL)]
            if len(wrong):
                raise ValueError(
                    f"{path}: class index {int(wrong.max())} is outside 0…{self.num_classes - 1}; correct the file, "
                    f"num_classes or zero_is_ignored, or mark such pixels {IGNORE_LABEL}"
                )
        return {**sample, "sem_seg": tv_tensors.Mask(labels)}


def _read_indices(path: str | Path) -> NDArray[np.int64]:
    with _naming(path), Image.open(path) as image:
        if image.mode not in ("P", "L", "1", "I", "I;16"):
            raise ValueError(f"mode {image.mode} holds colors, not class indices; save grayscale or palette PNG")
        return np.array(image).astype(np.int64)


@TRANSFORMS.register_module()
class LoadDepth(Loader):
    """`depth_path`, a 16-bit PNG or a .npy of meters, to `depth`. Infinite, NaN and negative values become 0.

    Args:
        scale: Meters per unit of the PNG: 0.001 for millimeters (NYU), 1/256 for KITTI.
    """

    def __init__(self, scale: float = 0.001) -> None:
        if not scale > 0:
            raise ValueError(
                f"scale {scale} is not a positive number of meters per unit of the PNG (0.001: millimeters)"
            )
        self.scale = scale

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one depth map.

        Raises:
            UnreadableFile: The file is missing, damaged, or neither .npy nor a 16-bit image.
            ValueError: Another size than the image.
        """
        path = sample["depth_path"]
        depth = torch.from_numpy(self._read(path))[None]  # [1, H, W]
        _check_size(path, depth, sample, "LoadDepth")
        return {**sample, "depth": tv_tensors.Mask(depth)}

    def _read(self, path: str | Path) -> NDArray[np.float32]:
        with _naming(path):
            if Path(path).suffix.lower() == ".npy":
                meters = np.load(path, allow_pickle=False).astype(np.float32)
            else:
                with Image.open(path) as image:
                    if not image.mode.startswith("I"):
                        raise ValueError(f"mode {image.mode} has no 16-bit values; save depth as 16-bit PNG or .npy")
                    meters = np.array(image).astype(np.float32) * np.float32(self.scale)
            if meters.ndim != 2:
                raise ValueError(f"an array of shape {meters.shape} is not a depth map [H, W]")
        return np.where(np.isfinite(meters) & (meters > 0), meters, np.float32(0))


# --- video ------------------------------------------------------------------------------------------------------------
@TRANSFORMS.register_module()
class LoadFrames(Loader):
    """`frame_paths`, or the images of the folder `video_path` in natural order, to `img`: a Video [T, 3, H, W]."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one video.

        Raises:
            FileNotFoundError: The folder holds no image.
            UnreadableFile: A frame is damaged.
            ValueError: Frames of different sizes.
        """
        paths = sample.get("frame_paths")
        if paths is None:
            paths = [str(entry.path) for entry in resolve_sources(sample["video_path"], ["image"], recursive=False)]
        frames = [read_image(path) for path in paths]
        for path, frame in zip(paths, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise ValueError(
                    f"{path}: a frame of {tuple(frame.shape[-2:])} (H, W) in a video that starts with "
                    f"{tuple(frames[0].shape[-2:])}; a video has one size: split or resize it"
                )
        size = tuple(frames[0].shape[-2:])
        return {**sample, "img": tv_tensors.Video(torch.stack(frames)), "frame_paths": paths, "ori_shape": size}


# --- shared -----------------------------------------------------------------------------------------------------------
class _naming:  # noqa: N801 - reads as a statement: `with _naming(path):`
    """Turns whatever a decoder raises on a bad file into an UnreadableFile that names it."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # Pillow's decoders raise OSError, SyntaxError (broken PNG), ValueError, EOFError and DecompressionBombError
        if isinstance(error, Exception) and not isinstance(error, UnreadableFile | MemoryError):
            reason = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
            raise UnreadableFile(f"{self.path} cannot be read: {reason}") from error


def _file(sample: dict[str, Any]) -> str:
    return str(sample.get("img_path", "image"))


def _frame(sample: dict[str, Any], step: str) -> tuple[int, int]:
    if "ori_shape" not in sample:
        raise ValueError(
            f"{_file(sample)}: {step} needs the size of the image; put LoadImage before it in the pipeline"
        )
    return sample["ori_shape"]


def _check_size(path: str | Path, label: Tensor, sample: dict[str, Any], step: str) -> None:
    size, expected = tuple(label.shape[-2:]), _frame(sample, step)
    if size != tuple(expected):
        raise ValueError(
            f"{path} is {size} (H, W) but its image {_file(sample)} is {tuple(expected)}; "
            "image and label must have one size"
        )


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")

"""`FeatureExtractor`: what a frozen encoder makes of pictures, as the files of `pe-spatial features` hold it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.allocator import keep_freed_memory
from pe_spatial.common.devices import choose_device
from pe_spatial.common.errors import OptionError, PictureError, require_choice, require_positive
from pe_spatial.common.pictures import ValueRule, read_image
from pe_spatial.common.trust import trusting
from pe_spatial.features.encoder import POOLS, Encoder, Layers, open_encoder
from pe_spatial.features.sizing import INTERPOLATION, Sizing
from pe_spatial.inference.inputs import Channels, Picture, list_pictures, read_picture

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FORMS = ("maps", "tokens")
_BATCHES_AT_ONCE = 8  # of a list, so that pictures of one size meet in a batch

Features = dict[str, Tensor]


class FeatureExtractor:
    """Computes features of pictures with a frozen encoder.

    Args:
        encoder: The name of a released encoder (`PE-Spatial-B16-512`); the file or the folder of a run, or
            `hf://OWNER/NAME`; a mapping with the `type` of any registered backbone and its options; or a module with
            `channels`, `strides` and `patch_size` that returns a tuple of maps.
        layers: Blocks from 0, or from the end if negative, or "all"; None uses those of a run, a mapping or a module,
            and the last one of a released encoder.
        pool: `none` for the whole map; `mean` of a map; `cls`, the class token; `attention`, PE-Core's own pooling and
            projection of the last layer.
        form: Of a map: `maps` [C, h, w] or `tokens` [h * w, C], row by row.
        weights: Of a released encoder or a mapping: a file, a name, or "none" for random ones.
        norm: Apply the final norm, if there is one, to every layer (released encoders and runs).
        image_size: In pixels, see `resize`; None uses that of the encoder.
        resize: `shorter`: the shorter side becomes `image_size` (the longer one at most 8 times that); `longer`: the
            longer side does; `square`: both do, whatever the aspect ratio. Then both are rounded to whole patches.
        dtype: Of the features: `fp32`, `fp16` or `bf16`.
        precision: Type in which the encoder computes, likewise.
        batch_size: How many pictures of one size go through the encoder at once.
        device: E.g. "cuda:1"; None takes CUDA if it is there.
        allow_urls: Download pictures that are given as addresses (http, https).
        max_pixels: Larger pictures in files are refused; None: those that do not fit into the free memory.
        trust: Packages of your own that the config in a checkpoint may import.

    Attributes:
        encoder: The backbone with its name, settings, mean and deviation.
        names: Of what a picture gives: `layer_5` for each layer, or `attention`.
        description: Everything besides the picture that the features depend on, as JSON; it is stored in every file.

    Raises:
        UserError: No such encoder, layer, pooling, size or type.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        layers: Layers | None = None,
        pool: str = "none",
        form: str = "maps",
        weights: str | None = None,
        norm: bool = False,
        image_size: int | None = None,
        resize: str = "shorter",
        dtype: str = "fp32",
        precision: str = "fp32",
        batch_size: int = 8,
        device: str | torch.device | None = None,
        allow_urls: bool = False,
        max_pixels: int | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        require_positive(batch_size=batch_size, max_pixels=1 if max_pixels is None else max_pixels)
        choices = {"pool": (pool, POOLS), "form": (form, FORMS), "dtype": (dtype, DTYPES)}
        for name, (value, known) in {**choices, "precision": (precision, DTYPES)}.items():
            require_choice(name, value, known)
        self.device = choose_device(device)
        keep_freed_memory()
        with trusting(trust):
            self.encoder = open_encoder(encoder, weights, layers, norm)
        self.pool, self.form, self.dtype = pool, form, DTYPES[dtype]
        self._check_pool()
        self.names = ("attention",) if pool == "attention" else tuple(f"layer_{n}" for n in self.encoder.layers)
        self._strides = dict(zip(self.names, self.encoder.strides, strict=True))
        size = image_size or self.encoder.image_size
        if size is None:
            raise OptionError(f"{self.encoder.name} does not define an image size; give image_size")
        self.sizing = Sizing(size, resize, int(self.encoder.backbone.patch_size))
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.allow_urls = allow_urls
        self.description: dict[str, Any] = {
            **self.encoder.describe(),
            "pool": pool,
            "form": form,
            "dtype": dtype,
            "precision": precision,
            "image_size": size,
            "resize": resize,
            "multiple_of": self.sizing.unit,
            "interpolation": INTERPOLATION,
        }
        self._precision = DTYPES[precision]
        self.encoder.backbone.to(self.device)
        statistics = torch.tensor([self.encoder.mean, self.encoder.std], device=self.device)
        self._mean, self._std = statistics.view(2, 3, 1, 1)

    def _check_pool(self) -> None:
        if self.pool not in self.encoder.pools:
            what = {"cls": "class token", "attention": "attention pooling"}[self.pool]
            raise OptionError(
                f"pool {self.pool!r}: {self.encoder.name} has no "
                f"{what}{' (attention in windows removes it)' if self.encoder.settings.get('window') else ''}; it has: "
                f"{', '.join(self.encoder.pools)}"
            )
        last = self.encoder.settings.get("depth", 0) - 1
        if self.pool == "attention" and self.encoder.layers != (last,):
            raise OptionError(
                f"pool 'attention' uses the last layer, {last}, but layers are {list(self.encoder.layers)}; "
                "leave layers out"
            )

    # --- pictures in Python -------------------------------------------------------------------------------------------
    def __call__(self, pictures: Picture | Iterable[Picture], channels: Channels = "rgb") -> Any:
        """The features of pictures.

        Args:
            pictures: One picture: a path, an address (see `allow_urls`), the bytes of a file, a binary file object, a
                PIL image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W]. Or many: a list, a generator, an array
                [B, H, W, 3] or a tensor [B, 3, H, W].
            channels: The order of colors in arrays and tensors; OpenCV's is "bgr".

        Returns:
            A mapping from `names` to tensors on the CPU: maps [C, h, w], tokens [h * w, C] or, pooled, vectors [C]. A
            list of them for many pictures.

        Raises:
            UnreadableFile: A path, an address or bytes without an image.
            PictureError: Something else that is no picture, or features that `dtype` does not hold.
        """
        waiting, is_many = list_pictures(pictures)
        found: list[Features] = []
        while some := list(islice(waiting, _BATCHES_AT_ONCE * self.batch_size)):
            samples = [self.transform(self.load(picture, channels)) for picture in some]
            found += [{name: sample.get(name) for name in self.names} for sample in self.predict(samples)]
        return found if is_many else found[0]

    def batch(self, pictures: Iterable[Picture], channels: Channels = "rgb") -> Features:
        """The features of several pictures of one size as one tensor for each layer.

        Args:
            pictures: As of a call.
            channels: As of a call.

        Returns:
            Maps [B, C, h, w], tokens [B, h * w, C], or vectors [B, C].

        Raises:
            PictureError: No picture, or maps of several sizes; `resize="square"` makes them one. Or as of a call.
        """
        found = self(list(pictures), channels)
        shapes = list(dict.fromkeys(tuple(one[self.names[0]].shape) for one in found))
        if len(shapes) != 1:
            sizes = " and ".join(str(list(shape)) for shape in shapes[:2]) or "no picture"
            raise PictureError(f'{sizes} cannot be one batch; give pictures of one shape, or resize="square"')
        return {name: torch.stack([one[name] for one in found]) for name in self.names}

    # --- pictures in a stream -----------------------------------------------------------------------------------------
    @property
    def rule(self) -> ValueRule:
        """How pictures of more than 8 bits and more than three bands are shown."""
        return ValueRule()

    def load(self, picture: Picture, channels: Channels = "rgb") -> dict[str, Any]:
        """One picture as the encoder sees it: `img` uint8 [3, H, W], and the `source_size` (H, W) that it had."""
        if isinstance(picture, Path):
            image = read_image(picture, max_pixels=self.max_pixels)
        else:
            image = read_picture(picture, channels, self.allow_urls, max_pixels=self.max_pixels)
        return {"img": self.sizing(image), "source_size": tuple(image.shape[-2:])}

    def transform(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Nothing is left to do after `load`."""
        return sample

    def predict(self, samples: Sequence[dict[str, Any]]) -> list[BaseDataElement]:
        """The features of loaded pictures, those of one size together, `batch_size` at a time.

        Returns:
            For each a tensor on the CPU under every name of `names`, and as metainfo `source_size` and `size` (H, W) in
            pixels and `grid`, the cells (h, w) by these names.

        Raises:
            PictureError: Features that `dtype` does not hold, or that are not finite.
        """
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, sample in enumerate(samples):
            by_size[tuple(sample["img"].shape[-2:])].append(number)
        found: dict[int, BaseDataElement] = {}
        for size, numbers in by_size.items():
            grid = {name: [side // stride for side in size] for name, stride in self._strides.items()}
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                features = self.compute(torch.stack([samples[number]["img"] for number in batch]))
                for place, number in enumerate(batch):
                    facts = {"source_size": list(samples[number]["source_size"]), "size": list(size), "grid": grid}
                    values = {name: values[place] for name, values in features.items()}
                    found[number] = BaseDataElement(metainfo=facts, **values)
        return [found[number] for number in range(len(samples))]

    def normalize(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 3, H, W] as the encoder takes them: float32, on its device."""
        return (images.to(self.device).float() - self._mean) / self._std

    @torch.inference_mode()
    def compute(self, images: Tensor) -> Features:
        """The features of images uint8 [B, 3, H, W] whose sides are multiples of the patch; on the CPU.

        Raises:
            PictureError: As of `predict`.
        """
        x = self.normalize(images)
        with torch.autocast(self.device.type, self._precision, enabled=self._precision != torch.float32):
            outputs = self.encoder.features(x, self.pool)
        named = zip(self.names, outputs, strict=True)
        return {name: self._stored(name, output).cpu() for name, output in named}

    def _stored(self, name: str, output: Tensor) -> Tensor:
        stored = output.to(self.dtype)
        if self.form == "tokens" and stored.ndim == 4:
            stored = stored.flatten(2).transpose(1, 2)
        if not stored.isfinite().all():
            largest = float(output.float().abs().max())
            if output.isfinite().all():
                raise PictureError(f"{name} reaches {largest:.3g}, more than fp16 can store; give --dtype bf16 or fp32")
            raise PictureError(f"{name} is not finite; check the weights and --precision")
        return stored

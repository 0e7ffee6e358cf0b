"""A map on the grid of tokens that torchvision's transforms move together with its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as geometry


class TokenMap(tv_tensors.TVTensor):
    """Features [K, h, w] of an image of `canvas_size`; the cells lie evenly over the whole canvas.

    Flips, resizes and crops of the image move it. The grid keeps its rows and columns: a resize changes the canvas
    alone, a crop samples the cells of the crop bilinearly between those of the whole.

    Args:
        data: Floating-point [K, h, w].
        canvas_size: (H, W) of the image in pixels.
    """

    canvas_size: tuple[int, int]

    def __new__(cls, data: Any, canvas_size: Sequence[int]) -> TokenMap:  # noqa: D102 - the class says it
        tensor = torch.as_tensor(data)
        if tensor.ndim != 3 or not tensor.is_floating_point():
            raise ValueError(f"a token map is floating-point [K, h, w], not {tensor.dtype} {list(tensor.shape)}")
        return cls._wrap(tensor, (int(canvas_size[0]), int(canvas_size[1])))

    @classmethod
    def _wrap(cls, tensor: Tensor, canvas_size: tuple[int, int]) -> TokenMap:
        wrapped = tensor.as_subclass(cls)
        wrapped.canvas_size = canvas_size
        return wrapped

    @classmethod
    def _wrap_output(cls, output: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        # what an operation on a map returns keeps the canvas of the first map among its arguments
        if isinstance(output, Tensor) and not isinstance(output, cls):
            flat, _ = tree_flatten((tuple(args), dict(kwargs or {})))
            first = next(item for item in flat if isinstance(item, cls))
            output = cls._wrap(output, first.canvas_size)
        return output

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return self._make_repr(canvas_size=self.canvas_size)


@geometry.register_kernel(geometry.horizontal_flip, TokenMap)
def _flip(inpt: TokenMap) -> TokenMap:
    return TokenMap(inpt.as_subclass(Tensor).flip(-1), inpt.canvas_size)


@geometry.register_kernel(geometry.resize, TokenMap)
def _resize(inpt: TokenMap, size: list[int], **_options: Any) -> TokenMap:
    return TokenMap(inpt.as_subclass(Tensor), size)


@geometry.register_kernel(geometry.crop, TokenMap)
def _crop(inpt: TokenMap, top: int, left: int, height: int, width: int) -> TokenMap:
    H, W = inpt.canvas_size
    window = torch.tensor([[width / W, 0, (2 * left + width) / W - 1], [0, height / H, (2 * top + height) / H - 1]])
    cells = inpt.as_subclass(Tensor)[None]  # [1, K, h, w]
    places = F.affine_grid(window[None], list(cells.shape), align_corners=False)
    sampled = F.grid_sample(cells.float(), places, padding_mode="border", align_corners=False)[0].to(cells.dtype)
    return TokenMap(sampled, (height, width))


@geometry.register_kernel(geometry.resized_crop, TokenMap)
def _resized_crop(
    inpt: TokenMap, top: int, left: int, height: int, width: int, size: list[int], **_options: Any
) -> TokenMap:
    return _resize(_crop(inpt, top, left, height, width), size)

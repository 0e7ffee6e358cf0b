"""Maps of features at a finer stride than that of the patches, guided by the picture.

A fine cell is a weighted mean of the tokens in the neighborhood of its own token, so features stay what they are: the
same channels, and constant features stay constant. The weights are a softmax of two parts. The first is a B-spline of
the distance, with exactly the support of the neighborhood: it is continuous over the borders of tokens, and alone it
would be smooth interpolation. The second is an affinity of what the picture shows in the fine cell and in the token:

    joint_bilateral   of their colors, without training (joint bilateral upsampling: Kopf et al., 2007,
                      doi:10.1145/1276377.1276497)
    learned           of their colors, and of learned queries of the picture and learned keys of the tokens
                      (neighborhood attention, as AnyUp, arXiv:2510.12764, and NAF, arXiv:2511.18452, upsample)

Tokens are processed in square tiles, each with the picture under it and under its neighborhood; nothing else of the
size of the picture exists but the result. Where gradients are needed, or a graph is recorded, one tile holds all.

Letters: B images; H, W rows and columns of pixels; h, w of tokens, y, x of those of a tile; C channels; n fine cells in
a token along an axis; r the reach of the neighborhood, k = (2 r + 1)² tokens in it; d channels of queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from pe_spatial.common.errors import OptionError, PictureError
from pe_spatial.common.windows import Region, tiles

_TILE_NUMBERS = 2**24  # numbers in the neighborhoods and the result of a tile


class Interpolation(nn.Module):
    """Maps at a finer stride by bilinear interpolation, whatever the picture shows.

    Args:
        patch_size: Pixels per token.
        stride: Pixels per fine cell, a divisor of the patch size.

    Attributes:
        stride: As given.

    Raises:
        OptionError: A stride that is none of the divisors of the patch size below it.
    """

    def __init__(self, patch_size: int, stride: int) -> None:
        super().__init__()
        finer = [side for side in range(1, patch_size) if patch_size % side == 0]
        if not isinstance(stride, int) or stride not in finer:
            raise OptionError(
                f"stride {stride!r} does not divide patches of {patch_size} pixels into smaller cells; use "
                f"one of {', '.join(map(str, finer))}"
            )
        self.patch_size = patch_size
        self.stride = stride
        self.cells = patch_size // stride

    def settings(self) -> dict[str, Any]:
        """What the maps depend on besides weights."""
        return {"type": type(self).__name__, "patch_size": self.patch_size, "stride": self.stride}

    def forward(self, pictures: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Upsample maps of one stride.

        Args:
            pictures: [B, 3, H, W], normalized as the encoder saw them.
            maps: [B, C, h, w] each, of these pictures.

        Returns:
            [B, C, H / stride, W / stride] for each map, of its type.

        Raises:
            PictureError: The maps are not of these pictures.
        """
        for features in maps:
            grid = (features.shape[-2] * self.patch_size, features.shape[-1] * self.patch_size)
            if tuple(pictures.shape[-2:]) != grid or len(pictures) != len(features):
                raise PictureError(
                    f"a map {tuple(features.shape)} of patches of {self.patch_size} pixels is not of pictures "
                    f"{tuple(pictures.shape)}; give the pictures that the encoder saw"
                )
        return self.upsample(pictures, maps)

    def upsample(self, pictures: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`forward` without its checks."""
        return tuple(F.interpolate(m, scale_factor=float(self.cells), mode="bilinear") for m in maps)


class JointBilateral(Interpolation):
    """Maps at a finer stride, with edges where the colors of the picture have them.

    Args:
        patch_size: See `Interpolation`.
        stride: See `Interpolation`.
        deviation: Of the pixels that the encoder's normalization divides by, on the scale 0…255.
        reach: How many tokens further than its own a fine cell looks, along both axes.
        sigma: Distance of colors, on the scale 0…1, at which a token counts `exp(-1/2)` of what it would.
        tile: Side of a tile in tokens; None takes what holds about 64 MiB.

    Raises:
        OptionError: A value outside its range.
    """

    halo = 0  # fine cells around a region that its guide depends on

    def __init__(
        self,
        patch_size: int,
        stride: int,
        deviation: Sequence[float] = (127.5, 127.5, 127.5),
        *,
        reach: int = 2,
        sigma: float = 0.05,
        tile: int | None = None,
    ) -> None:
        super().__init__(patch_size, stride)
        _require_counts(reach=reach, tile=1 if tile is None else tile)
        if not sigma > 0:
            raise OptionError(f"sigma {sigma} must be above 0; 0.05 is a twentieth of the range of colors")
        self.reach = reach
        self.sigma = sigma
        self.tile = tile
        self.deviation = tuple(float(value) / 255 for value in deviation)

    def settings(self) -> dict[str, Any]:
        """See `Interpolation`."""
        return {**super().settings(), "reach": self.reach, "sigma": self.sigma, "deviation": list(self.deviation)}

    def upsample(self, pictures: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See `Interpolation`."""
        h, w = maps[0].shape[-2:]
        is_recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (pictures, *maps, *self.parameters()))
        with torch.autocast(pictures.device.type, enabled=False):
            if is_recorded or torch.compiler.is_compiling():
                whole = (slice(0, h), slice(0, w))
                return tuple(self._fine(pictures, maps, whole, whole))
            results = tuple(_empty(features, self.cells) for features in maps)
            for tile, around in tiles(h, w, self.tile or self._tile(maps), self.reach):
                rows, columns = (slice(side.start * self.cells, side.stop * self.cells) for side in tile)
                for result, fine in zip(results, self._fine(pictures, maps, tile, around), strict=True):
                    result[:, :, rows, columns] = fine
        return results

    def guide(self, pictures: Tensor) -> Tensor:
        """What the picture shows in every fine cell: [B, d, H / stride - 2 halo, W / stride - 2 halo]."""
        scale = pictures.new_tensor(self.deviation).view(3, 1, 1)
        return F.avg_pool2d(pictures * scale, self.stride)

    def keys(self, shown: Tensor, tokens: Tensor) -> Tensor:
        """What fine cells compare with, of every token: [B, d, y, x] of the mean guide of a token and the tokens."""
        return shown

    def affinity(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Logarithms of weights [N, n², k] of queries [N, n², d] and keys [N, k, d]."""
        return _closeness(queries, keys) / self.sigma**2

    def _tile(self, maps: Sequence[Tensor]) -> int:
        """The side of a tile that holds about as many numbers as it may."""
        batch, channels = maps[0].shape[:2]
        each = batch * (channels + 64) * ((2 * self.reach + 1) ** 2 + 2 * self.cells**2)
        return max(math.isqrt(_TILE_NUMBERS // each), 1)

    def _fine(self, pictures: Tensor, maps: Sequence[Tensor], tile: Region, around: Region) -> list[Tensor]:
        """The fine cells [B, C, y n, x n] of a tile of every map, from its neighborhood alone."""
        guide = self.guide(self._crop(pictures, around))  # [B, d, ., .] of the neighborhood
        shown = F.avg_pool2d(guide, self.cells)
        top, left = (inner.start - outer.start for inner, outer in zip(tile, around, strict=True))
        y, x = (side.stop - side.start for side in tile)
        n = self.cells
        queries = guide[:, :, top * n : (top + y) * n, left * n : (left + x) * n]
        queries = (
            _exact(queries).unflatten(3, (x, n)).unflatten(2, (y, n)).permute(0, 2, 4, 3, 5, 1)
        )  # [B, y, x, n, n, d]
        queries = queries.flatten(3, 4).flatten(0, 2)  # [B y x, n², d]
        prior = self._prior(tile, maps[0].shape[-2:], queries)  # [y x, n², k]
        found = []
        for features in maps:
            tokens = features[:, :, around[0], around[1]]
            keys = self._neighborhoods(_exact(self.keys(shown, tokens)), tile, around)  # [B y x, k, d]
            weights = self.affinity(queries, keys).unflatten(0, (-1, y * x)) + prior
            weights = weights.softmax(dim=-1).to(features.dtype).flatten(0, 1)  # [B y x, n², k]
            fine = weights @ self._neighborhoods(tokens, tile, around)  # [B y x, n², C]
            fine = fine.unflatten(0, (-1, y, x)).unflatten(3, (n, n)).permute(0, 5, 1, 3, 2, 4)
            found.append(fine.flatten(4).flatten(2, 3))  # [B, C, y n, x n]
        return found

    def _crop(self, pictures: Tensor, region: Region) -> Tensor:
        """The picture under some tokens and the halo around them; its borders are repeated outside."""
        halo = self.halo * self.stride
        pads, cut = [], []
        for side, length in zip(region, pictures.shape[-2:], strict=True):
            start, stop = side.start * self.patch_size - halo, side.stop * self.patch_size + halo
            pads.append((max(-start, 0), max(stop - length, 0)))
            cut.append(slice(start + pads[-1][0], stop - pads[-1][1]))
        part = pictures[:, :, cut[0], cut[1]]
        return F.pad(part, (*pads[1], *pads[0]), mode="replicate") if halo else part

    def _neighborhoods(self, values: Tensor, tile: Region, around: Region) -> Tensor:
        """Values [B, c, ., .] of the neighborhood of a tile as [B y x, k, c], with zeros outside of the map."""
        reach = self.reach
        top, left = (reach - inner.start + outer.start for inner, outer in zip(tile, around, strict=True))
        bottom, right = (reach - outer.stop + inner.stop for inner, outer in zip(tile, around, strict=True))
        side = 2 * reach + 1
        each = F.pad(values, (left, right, top, bottom)).unfold(2, side, 1).unfold(3, side, 1)  # [B, c, y, x, ., .]
        return each.permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(0, 2)

    def _prior(self, tile: Region, grid: Sequence[int], like: Tensor) -> Tensor:
        """Logarithms [y x, n², k] of the B-spline of the distances, -inf for places outside of the map."""
        offsets = torch.arange(-self.reach, self.reach + 1, device=like.device)
        places = (torch.arange(self.cells, device=like.device, dtype=like.dtype) + 0.5) / self.cells - 0.5
        spline = b_spline(places[:, None] - offsets, 2 * self.reach).log()  # [n, 2r + 1]
        axes = []
        for side, length in zip(tile, grid, strict=True):
            there = torch.arange(side.start, side.stop, device=like.device)[:, None] + offsets  # [y, 2r + 1]
            outside = (there < 0) | (there >= length)
            axes.append(spline + torch.zeros_like(outside, dtype=like.dtype).masked_fill_(outside, -math.inf)[:, None])
        rows, columns = axes  # [y, n, 2r + 1], [x, n, 2r + 1]
        both = rows[:, None, :, None, :, None] + columns[None, :, None, :, None, :]  # [y, x, n, n, ., .]
        return both.flatten(4).flatten(2, 3).flatten(0, 1)


class LearnedUpsampler(JointBilateral):
    """Maps at a finer stride by neighborhood attention; what it learns begins as joint bilateral upsampling.

    Queries come from three convolutions over the fine cells of the picture, keys from the mean query of a token and
    its feature. The weights belong to one encoder; see `pe_spatial.alignment.upsampler`.

    Args:
        patch_size: See `Interpolation`.
        stride: See `Interpolation`.
        deviation: See `JointBilateral`.
        channels: C of the maps.
        width: d, of queries and keys.
        reach: See `JointBilateral`.
        sigma: See `JointBilateral`, at the beginning; it is trained.
        tile: See `JointBilateral`.
    """

    halo = 2

    def __init__(
        self,
        patch_size: int,
        stride: int,
        deviation: Sequence[float] = (127.5, 127.5, 127.5),
        *,
        channels: int,
        width: int = 32,
        reach: int = 2,
        sigma: float = 0.05,
        tile: int | None = None,
    ) -> None:
        super().__init__(patch_size, stride, deviation, reach=reach, sigma=sigma, tile=tile)
        _require_counts(width=width)
        self.see = nn.Sequential(
            nn.Conv2d(3, width, stride, stride),
            LayerNorm2d(width, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(width, width, 3),
            LayerNorm2d(width, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(width, width, 3),
        )
        self.read = nn.Sequential(LayerNorm2d(channels, eps=1e-6), nn.Conv2d(channels, width, 1))
        self.sharpness = nn.Parameter(torch.full((), -math.log(sigma)))
        nn.init.zeros_(self.see[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.see[-1].bias)  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """See `Interpolation`; what became of sigma is a weight."""
        return {name: value for name, value in super().settings().items() if name != "sigma"}

    def guide(self, pictures: Tensor) -> Tensor:
        """See `JointBilateral`: the colors, and queries."""
        pictures = pictures.to(self.sharpness.dtype)
        edge = self.halo * self.stride
        colors = super().guide(pictures[:, :, edge : pictures.shape[2] - edge, edge : pictures.shape[3] - edge])
        return torch.cat((colors, self.see(pictures)), dim=1)

    def keys(self, shown: Tensor, tokens: Tensor) -> Tensor:
        """See `JointBilateral`."""
        return torch.cat((shown[:, :3], shown[:, 3:] + self.read(tokens.to(shown.dtype))), dim=1)

    def affinity(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `JointBilateral`."""
        colors = _closeness(queries[..., :3], keys[..., :3]) * (2 * self.sharpness).exp()
        return colors + queries[..., 3:] @ keys[..., 3:].mT / math.sqrt(queries.shape[2] - 3)


def b_spline(distances: Tensor, degree: int) -> Tensor:
    """The centered cardinal B-spline, above 0 within (degree + 1) / 2: it sums to 1 over all shifts by 1.

    Its shifts by whole numbers reproduce straight lines exactly (Schoenberg, 1946).

    Args:
        distances: Of any shape.
        degree: 1 is the hat of linear interpolation.
    """
    half = (degree + 1) / 2
    terms = (
        (-1) ** k * math.comb(degree + 1, k) * (half - distances.abs() - k).clamp(min=0) ** degree
        for k in range(degree + 2)
    )
    return sum(terms, torch.zeros_like(distances)) / math.factorial(degree)


def _require_counts(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise OptionError(f"{name} {number!r} must be a whole number of at least 1")


def _closeness(queries: Tensor, keys: Tensor) -> Tensor:
    """Half the negative squared distances [N, q, k] of [N, q, d] and [N, k, d]."""
    squares = (queries**2).sum(2)[:, :, None] + (keys**2).sum(2)[:, None]
    return queries @ keys.mT - squares / 2


def _exact(values: Tensor) -> Tensor:
    """In float32 at least: distances and softmax in bfloat16 would be coarse."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _empty(features: Tensor, cells: int) -> Tensor:
    """Room for the fine map of a map [B, C, h, w], in the memory order B, H, W, C, as tiles arrive."""
    batch, channels, height, width = features.shape
    return features.new_empty(batch, height * cells, width * cells, channels).permute(0, 3, 1, 2)

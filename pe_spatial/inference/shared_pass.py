"""One pass of an encoder for several models: what was computed for one of them is handed to the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pe_spatial.backbones.vit import VisionTransformer, resolve_blocks

KEPT = 2**30  # bytes of pictures and tokens that are kept at most; what is beyond is computed anew for each model

Key = tuple[Any, ...]
Entry = tuple[Tensor, list[Tensor]]  # a normalized picture [3, H, W], and its tokens [N, C] after every block


class SharedPass:
    """An encoder that computes the tokens of a picture, or of a window or tile of it, once for all of its models.

    Pictures are told apart by their content, so a model gets what it would have computed itself, to the rounding of
    batches that are composed otherwise. Models that see a picture in other pieces share the pieces that are equal.

    Args:
        encoder: Frozen, in evaluation mode.

    Attributes:
        layers: The blocks that any of the models needs, in ascending order.
        computed: Pictures, windows and tiles that went through the encoder.
        reused: Those that a model did not have to compute.
    """

    def __init__(self, encoder: VisionTransformer) -> None:
        self.encoder = encoder
        self.layers: tuple[int, ...] = ()
        self.computed = self.reused = 0
        self._kept: dict[Key, list[Entry]] = {}
        self._bytes = 0

    def stub(self, own: VisionTransformer, layers: Sequence[int]) -> StubEncoder:
        """What stands in the place of the encoder of one more model.

        Args:
            own: Its encoder, equal to this one as far as the blocks of `layers` go.
            layers: The blocks that it needs.
        """
        self.layers = tuple(sorted({*self.layers, *layers}))
        return StubEncoder(own, self)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """In the block the models predict the same pictures, one model after the other; then these are forgotten."""
        try:
            yield
        finally:
            self._kept.clear()
            self._bytes = 0

    def tokens(self, x: Tensor, layers: Sequence[int], keep: bool) -> list[Tensor]:
        """Tokens [B, N, C] of normalized images [B, 3, H, W] after each of some blocks, without the final norm.

        Args:
            x: The images.
            layers: Some of the blocks of this pass.
            keep: Whether another model may ask for the same.
        """
        keys = [_key(row) for row in x]
        found = [self._find(key, row) for key, row in zip(keys, x, strict=True)]
        missing = [number for number, tokens in enumerate(found) if tokens is None]
        self.computed += len(missing)
        self.reused += len(x) - len(missing)
        places = [self.layers.index(layer) for layer in layers]
        if missing:
            computed = self.encoder.forward_features(x if len(missing) == len(x) else x[missing], self.layers)
            for place, number in enumerate(missing):
                found[number] = [tokens[place] for tokens in computed]
                if keep:
                    self._keep(keys[number], x[number], [tokens[place] for tokens in computed])
            if len(missing) == len(x):
                return [computed[place] for place in places]
        rows = [tokens for tokens in found if tokens is not None]
        return [torch.stack([tokens[place] for tokens in rows]) for place in places]

    def _find(self, key: Key, row: Tensor) -> list[Tensor] | None:
        for picture, tokens in self._kept.get(key, ()):
            if torch.equal(picture, row):
                return tokens
        return None

    def _keep(self, key: Key, row: Tensor, tokens: list[Tensor]) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in (row, *tokens))
        if self._bytes + size <= KEPT:
            self._kept.setdefault(key, []).append((row, tokens))
            self._bytes += size


def _key(row: Tensor) -> Key:
    """By which pictures [3, H, W] are looked up: quickly found, and equal for equal ones under equal arithmetic."""
    kind = row.device.type
    arithmetic = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else row.dtype
    corner = row[:, :: max(row.shape[1] // 4, 1), :: max(row.shape[2] // 4, 1)].flatten()
    return (tuple(row.shape), arithmetic, *corner.tolist())


class StubEncoder(nn.Module):
    """In the place of a model's encoder: the same encoder, whose passes are those of a `SharedPass`.

    Blocks that a model runs itself, such as those with queries among their tokens, are its own.

    Args:
        own: The encoder of the model.
        shared: The pass that serves it.

    Attributes:
        keeps: Whether models that come later may ask for what this one computes; the caller sets it.
    """

    def __init__(self, own: VisionTransformer, shared: SharedPass) -> None:
        super().__init__()
        self.own = own
        self.shared = [shared]  # in a list, or its encoder would be a part of this module
        self.keeps = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the encoder
        """What else a model asks of its encoder."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("own"), name)

    def forward_features(self, x: Tensor, layers: Sequence[int] = (-1,), norm: bool = False) -> list[Tensor]:
        """See `VisionTransformer.forward_features`."""
        self.own.grid(x)
        tokens = self.shared[0].tokens(x, resolve_blocks(layers, self.own.config.depth), self.keeps)
        return [t if self.own.ln_post is None or not norm else self.own.ln_post(t) for t in tokens]

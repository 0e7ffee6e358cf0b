"""One pass of an encoder for several models: what was computed for one of them is handed to the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.vit import resolve_blocks

KEPT = 2**30  # bytes of pictures and tokens that are kept at most; what is beyond is computed anew for each model

Key = tuple[Any, ...]
Entry = tuple[Tensor, list[Tensor]]  # a normalized picture [3, H, W], and what comes out of every layer for it
Compute = Callable[[Tensor, Sequence[int]], Sequence[Tensor]]


class SharedPass:
    """An encoder that sees a picture, or a window or tile of it, once for all of its models.

    Pictures are told apart by their content, so a model gets what it would have computed itself, to the rounding of
    batches that are composed otherwise. Models that see a picture in other pieces share the pieces that are equal.

    Args:
        compute: Runs the encoder on images [B, 3, H, W]; returns what comes out of each of some layers, [B, …].

    Attributes:
        layers: Those that any of the models needs, in ascending order.
        computed: Pictures, windows and tiles that went through the encoder.
        reused: Those that a model did not have to compute.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self.layers: tuple[int, ...] = ()
        self.computed = self.reused = 0
        self._kept: dict[Key, list[Entry]] = {}
        self._bytes = 0

    def serve(self, layers: Sequence[int]) -> None:
        """Compute some more layers, for one more model."""
        self.layers = tuple(sorted({*self.layers, *layers}))

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """In the block the models predict the same pictures, one model after the other; then these are forgotten."""
        try:
            yield
        finally:
            self._kept.clear()
            self._bytes = 0

    def outputs(self, x: Tensor, layers: Sequence[int], keep: bool) -> list[Tensor]:
        """What comes out of each of some layers for normalized images [B, 3, H, W].

        Args:
            x: The images.
            layers: Some of those of this pass.
            keep: Whether another model may ask for the same.
        """
        keys = [_key(row) for row in x]
        found = [self._find(key, row) for key, row in zip(keys, x, strict=True)]
        missing = [number for number, tokens in enumerate(found) if tokens is None]
        self.computed += len(missing)
        self.reused += len(x) - len(missing)
        places = [self.layers.index(layer) for layer in layers]
        if missing:
            computed = self._compute(x if len(missing) == len(x) else x[missing], self.layers)
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


class Stub(nn.Module):
    """In the place of a part of a model: the same part, but what it computes comes from a `SharedPass`.

    Args:
        own: The part of the model.
        shared: The pass that serves it.

    Attributes:
        keeps: Whether models that come later may ask for what this one computes; the caller sets it.
    """

    def __init__(self, own: nn.Module, shared: SharedPass) -> None:
        super().__init__()
        self.own: Any = own
        self.shared = shared
        self.keeps = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the part
        """What else a model asks of the part."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("own"), name)


class StubEncoder(Stub):
    """In the place of the encoder of a `PEBackbone`. Blocks that a model runs itself are its own."""

    def forward_features(self, x: Tensor, layers: Sequence[int] = (-1,), norm: bool = False) -> list[Tensor]:
        """See `VisionTransformer.forward_features`."""
        self.own.grid(x)  # which refuses sizes
        tokens = self.shared.outputs(x, resolve_blocks(layers, self.own.config.depth), self.keeps)
        return [t if self.own.ln_post is None or not norm else self.own.ln_post(t) for t in tokens]


class StubBackbone(Stub):
    """In the place of any other backbone."""

    def __init__(self, own: nn.Module, shared: SharedPass) -> None:
        super().__init__(own, shared)
        self.layers: tuple[int, ...] = own.layers  # type: ignore[assignment]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of the layers of this model."""
        return tuple(self.shared.outputs(x, self.layers, self.keeps))


def new_pass(backbone: nn.Module) -> SharedPass:
    """A pass of the encoder of a backbone, which it is taken from; it serves nobody yet."""
    if isinstance(backbone, PEBackbone):
        return SharedPass(backbone.encoder.forward_features)
    lead = twin(backbone)  # its layers become others

    def compute(x: Tensor, layers: Sequence[int]) -> Sequence[Tensor]:
        lead.layers = tuple(layers)  # type: ignore[assignment]
        return lead(x)

    return SharedPass(compute)


def twin(module: nn.Module) -> nn.Module:
    """Another module of the same parts, which stay its own when those of the first are replaced."""
    other = copy(module)
    other._modules = dict(module._modules)
    return other


def pass_of(model: nn.Module) -> SharedPass | None:
    """The pass that serves a model; None for one with an encoder of its own."""
    backbone = getattr(model, "backbone", None)
    for part in (backbone, getattr(backbone, "encoder", None)):
        if isinstance(part, Stub):
            return part.shared
    return None


def insert_stub(model: nn.Module, shared: SharedPass) -> Stub:
    """Let a model take from a pass what its own encoder, which is the same, would compute."""
    backbone: Any = model.backbone
    if isinstance(backbone, PEBackbone):
        stub: Stub = StubEncoder(backbone.encoder, shared)
        backbone.encoder = stub  # type: ignore[assignment]
    else:
        stub = StubBackbone(backbone, shared)
        model.backbone = stub
    return stub

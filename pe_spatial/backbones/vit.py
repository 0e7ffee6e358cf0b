"""The Perception Encoder: a vision transformer with 2-D rotary attention, global or in windows.

Module names and parameter layouts are those of the official checkpoints, so a state dict is a checkpoint.

Letters: B images, N tokens (class token first, where there is one, then patches row by row), C channels, h and w rows
and columns of patches.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pe_spatial.backbones.blocks import AttentionPool, Block, Transformer
from pe_spatial.backbones.rope import rotary_table
from pe_spatial.backbones.variants import EncoderConfig
from pe_spatial.common.errors import OptionError, require_choice

POSITION_MODES = ("bilinear", "bicubic", "tile")


def split_windows(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Cut a map into windows, padded with zeros at the bottom and the right to whole windows.

    Args:
        x: [B, h * w, C], row by row.
        grid: (h, w).
        size: Side of a window.

    Returns:
        [B, windows, size * size, C], windows and their tokens row by row.
    """
    height, width = grid
    x = F.pad(x.unflatten(1, grid), (0, 0, 0, _whole(width, size) - width, 0, _whole(height, size) - height))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)  # [B, rows, columns, size, size, C]
    return x.flatten(3, 4).flatten(1, 2)


def merge_windows(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Undo `split_windows`: [B, windows, size * size, C] to [B, h * w, C]; the padding is cut off."""
    height, width = grid
    x = x.unflatten(2, (size, size)).unflatten(1, (_whole(height, size) // size, -1)).transpose(2, 3)
    x = x.flatten(3, 4).flatten(1, 2)  # [B, rows * size, columns * size, C]
    # a slice would ask a graph for any size whether it is the whole
    return F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1])).flatten(1, 2)


def valid_tokens(x: Tensor, grid: tuple[int, int], size: int) -> Tensor | None:
    """Return [windows, size * size, 1]: 1 for tokens of the map `x`, 0 for padding; None if whole windows fit."""
    if not _is_symbolic(grid) and not any(cells % size for cells in grid):
        return None
    return split_windows(x.new_ones(1, grid[0] * grid[1], 1), grid, size)[0]


class VisionTransformer(nn.Module):
    """A Perception Encoder of any size, kind and use.

    Args:
        config: Shape of the encoder; see `pe_spatial.backbones.variants.get_variant`.
        window: Side of square attention windows in patches. The class token, if the encoder has one, is then left out
            (a window has no place for it). None lets all blocks attend globally.
        global_blocks: Blocks (from 0, negative from the end) that attend globally although there are windows.
        rope: `extrapolate` counts rotary positions in patches (official feature extraction); `interpolate` rescales
            them to the pretraining grid (official detection); a number rescales them to a grid of that side.
        pos_embed: How the position table meets another grid: `bilinear` (official feature extraction) or `bicubic`
            resizing, or `tile`, repetition (official detection).
        drop_path: Probability to skip a residual branch in training, rising linearly from 0 in the first block to this
            value in the last.
        checkpointing: Recompute blocks in the backward pass instead of keeping their activations.

    Raises:
        OptionError: An option outside its range.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        window: int | None = None,
        global_blocks: Sequence[int] = (),
        rope: str | int = "extrapolate",
        pos_embed: str = "bilinear",
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_choice("pos_embed", pos_embed, POSITION_MODES)
        if window is not None and window < 1:
            raise OptionError(f"window {window} is not positive; use None for global attention")
        if global_blocks and window is None:
            raise OptionError(
                f"global_blocks {list(global_blocks)} without a window: all blocks are global; set window"
            )
        if not 0 <= drop_path < 1:
            raise OptionError(f"drop_path {drop_path} is not a probability below 1; use 0 to drop nothing")
        self.config = config
        self.pos_embed = pos_embed
        self.rope_reference = _rope_reference(rope, config)
        self.checkpointing = checkpointing
        self.has_cls = config.cls_token and window is None

        width = config.width
        if config.cls_token:
            self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(config.cls_token + config.grid_size**2, width))
        self.proj = None
        if config.output_dim is not None:
            self.proj = nn.Parameter(torch.zeros(width, config.output_dim))
        self.conv1 = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.ln_post = nn.LayerNorm(width) if config.ln_post else None
        everywhere = resolve_blocks(global_blocks, config.depth)
        self.window = window
        self.windowed = [window is not None and i not in everywhere for i in range(config.depth)]
        rates = torch.linspace(0, drop_path, config.depth, device="cpu").tolist()
        self.transformer = Transformer([Block(config, rate) for rate in rates])
        self.attn_pool = AttentionPool(width, config.pool_heads) if config.attn_pool else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: Xavier matrices, zero biases, embeddings of standard deviation C^-0.5."""
        for name, parameter in self.named_parameters():
            if name in ("class_embedding", "positional_embedding", "proj") or name.endswith("probe"):
                nn.init.normal_(parameter, std=self.config.width**-0.5)
            elif name.endswith("in_proj_weight"):
                for matrix in parameter.chunk(3):  # query, key and value are three square matrices
                    nn.init.xavier_uniform_(matrix)
            elif parameter.ndim >= 2:
                nn.init.xavier_uniform_(parameter.flatten(1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to the encoder's own output.

        Returns:
            [B, output_dim] pooled and projected for PE-Core; [B, N, C] tokens after the final norm, if any, otherwise.
        """
        x = self.forward_features(x, norm=True)[0]
        if self.attn_pool is not None:
            x = self.attn_pool(x)
        return x if self.proj is None else x @ self.proj

    def forward_features(self, x: Tensor, layers: Sequence[int] = (-1,), norm: bool = False) -> list[Tensor]:
        """Return the tokens after several blocks in one pass that stops after the last of them.

        Args:
            x: Normalized images [B, 3, H, W]; H and W are multiples of the patch size.
            layers: Blocks from 0, or from the end if negative, in any order.
            norm: Apply the encoder's final norm, if it has one, to each.

        Returns:
            One [B, N, C] for each entry of `layers`.

        Raises:
            OptionError: a size that is not a multiple of the patch size, or a block that does not exist.
        """
        wanted = resolve_blocks(layers, self.config.depth)
        grid = self.grid(x)
        x = self._embed(x, grid)
        # what a block needs besides its tokens: the rotary table, and which tokens are valid where windows are padded
        context: tuple[Tensor, Tensor | None] = (self.rope(grid, x.device), None)
        size = self.window or 0  # without windows no block is windowed and the size is not used
        if size:
            window_context = (self.rope((size, size), x.device), valid_tokens(x, grid, size))
        in_windows = False
        outputs: dict[int, Tensor] = {}
        for i in range(max(wanted, default=-1) + 1):
            if self.windowed[i] != in_windows:  # runs of equal blocks share one layout: moving is rare
                in_windows = self.windowed[i]
                x = (split_windows if in_windows else merge_windows)(x, grid, size)
            x = self.run_block(i, x, *(window_context if in_windows else context))
            if i in wanted:
                tokens = merge_windows(x, grid, size) if in_windows else x
                outputs[i] = tokens if self.ln_post is None or not norm else self.ln_post(tokens)
        return [outputs[i] for i in wanted]

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of patches of images [B, 3, H, W].

        Raises:
            OptionError: H or W is not a multiple of the patch size.
        """
        patch = self.config.patch_size
        for name, size in zip(("height", "width"), x.shape[-2:], strict=True):
            if size % patch or size < patch:
                raise OptionError(
                    f"{name} {size} is not a multiple of the patch size {patch}; resize the images or pad them, for "
                    f"example with DensePreprocessor(size_divisor={patch})"
                )
        return x.shape[-2] // patch, x.shape[-1] // patch

    def run_block(
        self, i: int, x: Tensor, rope: Tensor, valid: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Run one block, recomputed in the backward pass with `checkpointing`; see `Block.forward`."""
        block = self.transformer.resblocks[i]
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, rope, valid, mask, use_reentrant=False)
        return block(x, rope, valid, mask)

    def rope(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The rotary table [N, D/2, 2] of the tokens of a grid."""
        return rotary_table(*grid, self.config.head_dim, device, reference=self.rope_reference, cls_token=self.has_cls)

    def _embed(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)  # [B, h * w, C]
        table = self.positional_embedding[int(self.config.cls_token) :]
        x = x + resize_positions(table, self.config.grid_size, grid, self.pos_embed)
        if self.has_cls:
            cls = (self.class_embedding + self.positional_embedding[0]).expand(x.shape[0], 1, -1)
            x = torch.cat((cls.to(x.dtype), x), dim=1)  # [B, 1 + h * w, C]
        return self.ln_pre(x)


def resize_positions(table: Tensor, side: int, grid: tuple[int, int], mode: str) -> Tensor:
    """Fit a position table to a grid.

    Args:
        table: [side * side, C], row by row.
        side: Of the square pretraining grid.
        grid: Rows h and columns w that are needed.
        mode: `bilinear` or `bicubic` (half-pixel centers, no antialiasing) or `tile`.

    Returns:
        [h * w, C]; the table itself if the grid is its own.
    """
    height, width = grid
    if not _is_symbolic(grid) and (height, width) == (side, side):
        return table
    square = table.unflatten(0, (side, side))  # [side, side, C]
    if mode == "tile":
        rows, columns = (torch.arange(cells, device=table.device) % side for cells in grid)
        return square[rows[:, None], columns].flatten(0, 1)
    image = square.permute(2, 0, 1)[None].float()  # [1, C, side, side]
    image = F.interpolate(image, size=grid, mode=mode, align_corners=False)
    return image[0].permute(1, 2, 0).flatten(0, 1).to(table.dtype)


def _whole(cells: int, size: int) -> int:
    """The next multiple of `size`, without a negative number: ONNX rounds quotients of those toward zero."""
    return (cells + size - 1) // size * size


def _is_symbolic(grid: tuple[int, int]) -> bool:
    """Whether a graph for any size is being exported: a decision by its size would bind it to that of the example."""
    return any(isinstance(cells, torch.SymInt) for cells in grid)


def resolve_blocks(indices: Sequence[int], depth: int) -> list[int]:
    """Turn block numbers, negative ones counted from the end, into numbers from 0 to `depth - 1`.

    Raises:
        OptionError: a number that does not exist.
    """
    for index in indices:
        if not -depth <= index < depth:
            raise OptionError(f"block {index} does not exist; use 0 to {depth - 1}, or -{depth} to -1 from the end")
    return [index % depth for index in indices]


def _rope_reference(rope: str | int, config: EncoderConfig) -> int | None:
    if rope == "extrapolate":
        return None
    if rope == "interpolate":
        return config.grid_size
    if isinstance(rope, str) or rope < 1:
        raise OptionError(f"rope {rope!r} is not known; use 'extrapolate', 'interpolate' or the side of a grid")
    return rope

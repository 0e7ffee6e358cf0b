"""Exported files on torch's tensors: what stands in for the network of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_spatial.common.errors import CheckpointError, OptionError
from pe_spatial.common.graphs import Engine
from pe_spatial.common.trust import is_guarded, is_trusted
from pe_spatial.engines.fitting import cut, filled, padded
from pe_spatial.engines.header import Header
from pe_spatial.engines.sessions import Array, Session, open_session


class TorchSession:
    """A program of torch.export (.pt2).

    Args:
        path: The file.
        device: Where it computes.

    Raises:
        CheckpointError: It cannot be loaded.
        OptionError: Its code is not trusted, see SECURITY.md.
    """

    def __init__(self, path: Path, device: str) -> None:
        if is_guarded() and not is_trusted("torch.export"):
            raise OptionError(
                f"{path}: loading a .pt2 file can run code that is stored in it; if you made it yourself, add "
                "--allow-import torch.export (trust=['torch.export'] in Python), otherwise export to onnx"
            )
        try:
            program = torch.export.load(path)
        except Exception as error:  # whatever its parts raise
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path}: torch cannot load it ({reason}); export it again") from error
        self.device = torch.device(device)
        self.module: Any = program.module().to(self.device)

    @torch.no_grad()
    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """See `Session`."""
        found = self.module(*(torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in arrays))
        return [tensor.cpu().numpy() for tensor in found]


def open_engine(path: Path, engine: str, device: torch.device) -> tuple[Engine, Header]:
    """What runs an exported file on tensors; see `open_session`."""
    session, header = open_session(path, engine, str(device))
    return engine_of(session, header), header


def engine_of(session: Session, header: Header) -> Engine:
    """Run a session on tensors.

    A batch of another size than the file's is cut, and its last part filled up with its last image. Images that are
    smaller than those of the file are padded with 0, the color `mean`, at the right and the bottom, and maps are cut.
    """

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        check_size(inputs[0], header)
        size = (int(inputs[0].shape[-2]), int(inputs[0].shape[-1]))
        arrays = [tensor.detach().float().contiguous().cpu().numpy() for tensor in inputs]
        arrays[0] = padded(arrays[0], header.size or size)
        count = len(arrays[0])
        step = header.batch or max(count, 1)
        parts = [session.run([filled(array[i : i + step], step) for array in arrays]) for i in range(0, count, step)]
        joined = (np.concatenate(values)[:count] for values in zip(*parts, strict=True))
        shown = header.size if header.size and header.gives_maps else size
        outputs = (cut(output, shown, size) for output in joined)
        return tuple(torch.from_numpy(np.ascontiguousarray(output)).to(inputs[0].device) for output in outputs)

    return run


def check_size(images: Tensor, header: Header) -> None:
    """Refuse images that the graph does not take.

    Raises:
        OptionError: More than the size of the file, or sides that are no multiples.
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    if header.size is not None and (size[0] > header.size[0] or size[1] > header.size[1]):
        raise OptionError(
            f"images of {size} (H, W) for a file that was exported for {header.size}; export it again with "
            "--image-size dynamic, or with this size"
        )
    if size[0] % header.multiple or size[1] % header.multiple:
        raise OptionError(f"images of {size} (H, W), but the sides must be multiples of {header.multiple}; pad them")

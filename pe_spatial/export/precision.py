"""ONNX graphs of less precision: float16 by conversion, int8 by calibration. Both are ONNX Runtime's own tools."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import OptionError
from pe_spatial.export.graphs import is_large

Feed = dict[str, NDArray[Any]]

_QUANTIZED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


def to_fp16(proto: Any, keep: Iterable[str] = ()) -> Any:
    """A graph that computes in float16; inputs and outputs stay float32.

    Args:
        proto: Of float32; is changed.
        keep: Names of nodes that stay float32.

    Raises:
        OptionError: More than 2 GB, which the converter does not hold.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    _require_small(proto, "fp16")
    blocked = [*DEFAULT_OP_BLOCK_LIST, "RoiAlign"]
    return convert_float_to_float16(proto, keep_io_types=True, op_block_list=blocked, node_block_list=list(keep))


def to_int8(proto: Any, feeds: Sequence[Feed], keep: Iterable[str] = ()) -> Any:
    """A graph whose products of matrices and convolutions are of int8, with ranges from real inputs.

    Weights have 7 bits: processors without VNNI add up pairs of products in 16 bits, which 8 bits would overflow.

    Args:
        proto: Of float32.
        feeds: Inputs by their names.
        keep: Names of nodes that stay float32.

    Raises:
        OptionError: More than 2 GB, or no inputs.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _require_small(proto, "int8")
    if not feeds:
        raise OptionError("--precision int8: there is no picture to calibrate on; give --images FOLDER")
    with TemporaryDirectory(prefix="pe_spatial_") as temporary:
        source, prepared, target = (Path(temporary) / f"{name}.onnx" for name in ("float", "prepared", "int8"))
        onnx.save_model(proto, str(source))
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True, skip_optimization=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
        )
        return onnx.load(str(target))


class _Reader:
    """Hands inputs out one after the other, as ONNX Runtime asks for them."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next ones, or None at the end."""
        return next(self._feeds, None)


def float_weights(proto: Any, least: int = 4096) -> list[str]:
    """Names of weights of at least so many numbers that a graph keeps in float32."""
    float32 = 1  # TensorProto.FLOAT
    return [
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type == float32 and int(np.prod(tensor.dims)) >= least and len(tensor.dims) > 1
    ]


def _require_small(proto: Any, precision: str) -> None:
    if is_large(proto):
        raise OptionError(
            f"--precision {precision}: the graph has more than 2 GB, which the converters of ONNX Runtime cannot "
            "handle; use --to openvino with fp16 or bf16"
        )

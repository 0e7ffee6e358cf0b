"""What is exported, and how."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from pe_spatial.common.errors import MissingPackage, OptionError, few, require_choice, require_positive
from pe_spatial.common.graphs import NetworkGraph

# target -> the file in the folder of an export
TARGETS = {"onnx": "model.onnx", "openvino": "model.xml", "pt2": "model.pt2"}
# precision -> targets that have it
PRECISIONS = {
    "fp32": ("onnx", "openvino", "pt2"),
    "fp16": ("onnx", "openvino"),
    "bf16": ("openvino",),
    "int8": ("onnx", "openvino"),
}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "pt2": ()}


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Args:
        target: A key of `TARGETS`.
        precision: A key of `PRECISIONS`.
        image_size: (H, W); None leaves both open, where the graph can.
        batch: B; None leaves it open, where the graph can.
        images: Pictures that int8 is calibrated on, and encoders are compared on.
        calibration: How many of them int8 looks at.
        rounds: Timed passes of each engine.
    """

    target: str = "onnx"
    precision: str = "fp32"
    image_size: tuple[int, int] | None = None
    batch: int | None = None
    images: Path | None = None
    calibration: int = 32
    rounds: int = 5

    def check(self) -> None:
        """Refuse what cannot be, before anything is loaded.

        Raises:
            OptionError: A precision that the target does not have, or int8 without pictures.
            MissingPackage: What writes or runs the target is not installed.
        """
        if self.target == "tensorrt":
            raise OptionError(
                "--to tensorrt: TensorRT reads ONNX files; export --to onnx, and run the file with --engine tensorrt, "
                "which needs onnxruntime-gpu and a CUDA GPU (not measured here)"
            )
        require_choice("target", self.target, TARGETS)
        require_choice("precision", self.precision, PRECISIONS)
        require_positive(
            calibration=self.calibration, rounds=self.rounds, batch=1 if self.batch is None else self.batch
        )
        if self.target not in PRECISIONS[self.precision]:
            raise OptionError(
                f"--precision {self.precision} does not go with --to {self.target}; "
                f"it goes with {few(PRECISIONS[self.precision])}"
            )
        if self.precision == "int8" and self.images is None:
            raise OptionError(
                "--precision int8 is calibrated on pictures like those that it will see; give --images FOLDER"
            )
        missing = [name for name in PACKAGES[self.target] if find_spec(name) is None]
        if missing:
            raise MissingPackage(
                f"--to {self.target} needs {few(missing)}; pip install 'pe_spatial[onnx]'"
                + (" openvino" if "openvino" in missing else "")
            )

    def fit(self, graph: NetworkGraph) -> "ExportOptions":
        """These options for a graph: what it cannot leave open must be given.

        Raises:
            OptionError: A size that is no multiple, or an open size or batch that the graph does not have.
        """
        if self.image_size is None and not graph.free_size:
            raise OptionError("this graph needs a fixed image size; give it with --image-size H,W or N")
        for side in self.image_size or ():
            if side % graph.multiple or side < 1:
                nearest = max(round(side / graph.multiple), 1) * graph.multiple
                raise OptionError(f"--image-size {side} is not a multiple of {graph.multiple}; take {nearest}")
        batch = self.batch if self.batch is not None or graph.free_batch else 1
        return replace(self, batch=batch)

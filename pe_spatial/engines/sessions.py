"""The engines that run exported files, on NumPy's arrays."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import CheckpointError, MissingPackage, OptionError, few, require_choice
from pe_spatial.engines.header import Header, read_header
from pe_spatial.engines.proof import proof_of

Array = NDArray[Any]

# what --engine may say; `torch` and `compile` are for checkpoints, and `torch` also runs .pt2
ENGINES = ("auto", "torch", "compile", "onnxruntime", "openvino", "tensorrt")
RUNS = {".onnx": ("onnxruntime", "openvino", "tensorrt"), ".xml": ("openvino",), ".pt2": ("torch",)}

_OPENVINO_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}  # of what int8 leaves in floats
_PACKAGES = {"onnxruntime": "onnxruntime", "tensorrt": "onnxruntime-gpu", "openvino": "openvino"}


class Session(Protocol):
    """An open file."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """From the inputs to the outputs, in the order of the header."""


class OnnxRuntimeSession:
    """An ONNX file in ONNX Runtime.

    Args:
        path: The file.
        header: Of it.
        device: `cpu` or `cuda`, with a number of the card where there are several.
        tensorrt: Let TensorRT take what it can.
        threads: Of a pass; None takes OMP_NUM_THREADS, or all cores.

    Raises:
        OptionError: The installed build has nothing for the device.
        CheckpointError: It cannot be loaded.
        MissingPackage: ONNX Runtime is not installed.
    """

    def __init__(
        self, path: Path, header: Header, device: str, tensorrt: bool = False, threads: int | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise _missing("tensorrt" if tensorrt else "onnxruntime", path) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or threads_from_environment()
        options.log_severity_level = 3
        providers = _providers(device, tensorrt, onnxruntime.get_available_providers())
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its errors have no common class
            raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {_short(error)}; export it again") from error
        self._header = header

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """See `Session`."""
        feed = dict(zip(self._header.inputs, arrays, strict=True))
        return [np.asarray(value) for value in self._session.run(list(self._header.outputs), feed)]


class OpenVINOSession:
    """An OpenVINO or ONNX file in OpenVINO.

    Args:
        path: The file.
        header: Of it; its precision is that of the computation.
        device: `cpu`; others are not offered.
        threads: Of a pass; None takes OMP_NUM_THREADS, or all cores.

    Raises:
        OptionError: Another device.
        CheckpointError: It cannot be loaded.
        MissingPackage: OpenVINO is not installed.
    """

    def __init__(self, path: Path, header: Header, device: str, threads: int | None = None) -> None:
        try:
            from openvino import Core
        except ImportError:
            raise _missing("openvino", path) from None
        if device != "cpu":
            raise OptionError(f"--engine openvino computes on the CPU, not on {device}; remove --device")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[header.precision]}
        if count := threads or threads_from_environment():
            settings["INFERENCE_NUM_THREADS"] = count
        core = Core()
        try:
            self._model = core.compile_model(core.read_model(path), "CPU", settings)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: OpenVINO cannot load it: {_short(error)}; export it again") from error
        self._outputs = header.outputs

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """See `Session`."""
        found = self._model(list(arrays), share_inputs=True, share_outputs=False)
        return [np.asarray(found[number]) for number in range(len(self._outputs))]


def threads_from_environment() -> int:
    """OMP_NUM_THREADS; 0 where it is not set, which stands for all cores."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() else 0


def _providers(device: str, tensorrt: bool, available: Sequence[str]) -> list[Any]:
    if not tensorrt and device == "cpu":
        return ["CPUExecutionProvider"]
    number = int(device.partition(":")[2] or 0)
    wanted = ["TensorrtExecutionProvider"] if tensorrt else []
    wanted.append("CUDAExecutionProvider")
    if missing := [name for name in wanted if name not in available]:
        raise OptionError(
            f"the installed ONNX Runtime has no {few(missing)} (it has {few(available)}); "
            "pip install onnxruntime-gpu, or use --device cpu"
        )
    return [*((name, {"device_id": number}) for name in wanted), "CPUExecutionProvider"]


def _missing(engine: str, path: Path) -> MissingPackage:
    package = _PACKAGES[engine]
    return MissingPackage(f"{path}: engine {engine} needs the package {package}; pip install {package}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# --- choice -----------------------------------------------------------------------------------------------------------
def choose_engine(path: str | Path, asked: str = "auto") -> str:
    """The engine for an exported file.

    `auto` takes the fastest that has passed its proof and is installed.

    Raises:
        OptionError: An engine that does not run such a file.
        CheckpointError: The file has no proof or is not the one that was proven, or no engine has passed.
    """
    path = Path(path)
    require_choice("engine", asked, ENGINES)
    able = RUNS[path.suffix]
    if asked != "auto" and asked not in able:
        raise OptionError(f"--engine {asked} does not run {path.name}; a {path.suffix} file runs in {few(able)}")
    proof = proof_of(path)
    if proof is not None:
        proof.check_files()
    if asked != "auto":
        return asked
    if proof is None:
        raise CheckpointError(
            f"{path}: has no PROOF.json beside it, so it is not proven to compute the same as its "
            f"checkpoint; export it again, or give an engine to run it anyway: --engine {able[0]}"
        )
    installed = [name for name in proof.passed if name in able and is_installed(name)]
    if not installed:
        raise CheckpointError(
            f"{path}: no engine that passed its proof is installed (passed: {few(proof.passed) or 'none'}); install "
            f"one of them, or give another engine to run it anyway: --engine {able[0]}"
        )
    return installed[0]


def is_installed(engine: str) -> bool:
    """Whether the package of an engine can be imported."""
    from importlib.util import find_spec

    return engine == "torch" or find_spec("onnxruntime" if engine == "tensorrt" else engine) is not None


def open_session(
    path: str | Path, engine: str = "auto", device: str = "cpu", threads: int | None = None
) -> tuple[Session, Header]:
    """Open an exported file.

    Args:
        path: The file.
        engine: One of `ENGINES` that runs its format.
        device: `cpu`, or `cuda` with or without a number.
        threads: Of a pass; None takes OMP_NUM_THREADS, or all cores.

    Raises:
        CheckpointError: As of `read_header` and `choose_engine`.
        MissingPackage: The engine is not installed.
        OptionError: An engine or a device that does not go with the file.
    """
    path, header = Path(path), read_header(path)
    chosen = choose_engine(path, engine)
    if chosen == "openvino":
        return OpenVINOSession(path, header, device, threads), header
    if chosen == "torch":
        from pe_spatial.engines.bridge import TorchSession

        return TorchSession(path, device), header
    return OnnxRuntimeSession(path, header, device, chosen == "tensorrt", threads), header

"""Exported models without torch: NumPy, Pillow and an engine are all that is needed.

    from pe_spatial.runtime import Runtime

    model = Runtime("model.onnx")
    found = model("photo.jpg")
    found["labels"]  # of a segmenter: the class of every pixel

Pictures are prepared as in training, by the same functions of Pillow, so that inputs are the same to the bit.
"""

from pe_spatial.runtime.model import Runtime

__all__ = ["Runtime"]

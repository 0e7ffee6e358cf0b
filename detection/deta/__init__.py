"""DETA: the pyramid, deformable attention, the two-stage transformer, its losses, and the model that joins them."""

from detection.deta.augmentation import ResizeOrCrop
from detection.deta.model import DETA
from detection.deta.neck import DetaPyramid
from detection.deta.postprocess import NMSPostprocess, SoftNMSPostprocess, TopKPostprocess
from detection.deta.start import DetaStartHook
from detection.deta.transformer import DetaTransformer

__all__ = [
    "DETA",
    "DetaPyramid",
    "DetaStartHook",
    "DetaTransformer",
    "NMSPostprocess",
    "ResizeOrCrop",
    "SoftNMSPostprocess",
    "TopKPostprocess",
]

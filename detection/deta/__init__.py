"""DETA: the pyramid, deformable attention, the two-stage transformer, its losses, and the model that joins them."""

from pe_spatial.detection.deta.augmentation import ResizeOrCrop
from pe_spatial.detection.deta.model import DETA
from pe_spatial.detection.deta.neck import DetaPyramid
from pe_spatial.detection.deta.postprocess import NMSPostprocess, SoftNMSPostprocess, TopKPostprocess
from pe_spatial.detection.deta.start import DetaStartHook
from pe_spatial.detection.deta.transformer import DetaTransformer

"""A mask decoder inside the encoder: queries among its tokens, masks by dot product, matched losses."""

from pe_spatial.segmentation.mask_decoder.annealing import MaskAnnealingHook
from pe_spatial.segmentation.mask_decoder.criterion import MaskCriterion, Masks
from pe_spatial.segmentation.mask_decoder.model import MaskDecoder
from pe_spatial.segmentation.mask_decoder.schedule import StagedWarmupPolyLR

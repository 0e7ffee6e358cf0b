"""Samples, loaders, datasets and batches. Importing this package registers their names with mmengine."""

from pe_spatial.data.captions import CaptionedPictures
from pe_spatial.data.dataset import DenseDataset, seeded
from pe_spatial.data.images import ImageFolder, TarImages, find_images
from pe_spatial.data.loading import LoadImage, LoadInstances, decode_mask, encode_masks, to_bitmaps
from pe_spatial.data.placed_masks import (
    box_of_mask,
    cut_mask,
    decode_masks,
    mask_areas,
    mirror_masks,
    move_masks,
    place_columns,
    place_masks,
    place_profiles,
)
from pe_spatial.data.polygons import Outline, Polygons, require_bitmaps
from pe_spatial.data.preprocessor import DensePreprocessor
from pe_spatial.data.resizing import KeepRatioResize, ScaleJitter, fitted_size, jittered_size
from pe_spatial.data.sample import PackSample
from pe_spatial.data.sampler import Draw, DrawSampler
from pe_spatial.data.transforms import FixedSizeCrop, SanitizeInstances, boxes_of_masks

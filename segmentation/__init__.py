"""Segmentation models on Perception Encoder backbones. Importing this package registers their names with mmengine."""

import pe_spatial.segmentation._mmseg  # noqa: F401 - first: it silences a warning of mmseg
import pe_spatial.segmentation.checks  # noqa: F401 - registers what the dataset doctor asks
from pe_spatial.segmentation.datasets import ADE20K, Cityscapes, COCOStuff, PascalVOC, SegmentationFolder
from pe_spatial.segmentation.heads import LinearHead
from pe_spatial.segmentation.labels import LabelFormat, LoadSegmentation
from pe_spatial.segmentation.mask_decoder import MaskAnnealingHook, MaskCriterion, MaskDecoder
from pe_spatial.segmentation.metrics import MeanIoUMetric
from pe_spatial.segmentation.open_vocabulary import OpenVocabularySegmentor
from pe_spatial.segmentation.panoptic import CocoPanoptic, InstanceLabels, LoadInstanceLabels, LoadPanoptic
from pe_spatial.segmentation.panoptic_quality import PanopticMetric
from pe_spatial.segmentation.segmentor import SemanticSegmentor
from pe_spatial.segmentation.transforms import MixedCrop, RandomScale

"""Mask R-CNN: anchors, proposals, box and mask heads, and the model that joins them."""

from pe_spatial.detection.mask_rcnn.box_head import BoxPredictor, ConvFCBoxHead
from pe_spatial.detection.mask_rcnn.class_losses import FederatedLoss, SoftmaxLoss
from pe_spatial.detection.mask_rcnn.mask_head import ConvUpsampleMaskHead
from pe_spatial.detection.mask_rcnn.model import MaskRCNN
from pe_spatial.detection.mask_rcnn.roi_heads import RoIHeads
from pe_spatial.detection.mask_rcnn.rpn import RPN

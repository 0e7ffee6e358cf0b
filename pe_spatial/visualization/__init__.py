"""Pictures of labels and predictions. Images are uint8 RGB tensors [3, H, W]; none is changed in place."""

from pe_spatial.visualization.class_colors import class_colors
from pe_spatial.visualization.classes import draw_classes
from pe_spatial.visualization.colors import palette, quantile, ramp_colors
from pe_spatial.visualization.depth import color_range, colorize_depth, depth_picture
from pe_spatial.visualization.features import FeatureColors, similarity, similarity_rgb
from pe_spatial.visualization.instances import draw_boxes, draw_instances, draw_objects, overlay_masks
from pe_spatial.visualization.layout import caption_strip, enlarge
from pe_spatial.visualization.prediction import class_names, draw_compared, draw_labels, draw_prediction

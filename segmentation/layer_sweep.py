"""The mIoU of a segmentation probe on every layer of an encoder; the config's head is trained on all of them."""

from pe_spatial.training.layer_probes import probe_layers

METRIC = "seg/mIoU"
HIGHER_IS_BETTER = True
UNIT = "%"

evaluate_layers = probe_layers

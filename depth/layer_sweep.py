"""The errors of a depth probe on every layer of an encoder; the config's head is trained on all of them."""

from pe_spatial.training.layer_probes import probe_layers

METRIC = "depth/rmse"
HIGHER_IS_BETTER = False
UNIT = "m"

evaluate_layers = probe_layers

"""Pictures of measured depth, predicted depth and the error between them."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pe_spatial.visualization.depth import UNMEASURED, color_range, colorize_depth, depth_picture, error_picture
from pe_spatial.visualization.judged import LONGEST_PANEL, with_legend
from pe_spatial.visualization.layout import enlarge, row, thinned

_DARKEST = 0.25  # relative error


def draw_errors(image: Tensor, target: Tensor, prediction: Tensor) -> Tensor:
    """Four panels: the image, the measurement and the prediction on one color scale, and the relative error.

    Args:
        image: uint8 [3, H, W].
        target: [1, H, W], meters; 0 is not judged. At least one pixel is.
        prediction: [1, H, W], meters.
    """
    target, prediction = (thinned(depth[0], LONGEST_PANEL).float() for depth in (target, prediction))
    judged = target > 0
    near, far = color_range(target)
    error = (prediction - target).abs() / target.clamp_min(1e-6)
    factor = enlarge(colorize_depth(target))[1]
    size = [side * factor for side in target.shape]
    measured = colorize_depth(target, near, far).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    panels = {
        "image": TF.resize(image.as_subclass(Tensor), size),
        "measured": measured,
        "predicted": depth_picture(prediction, near, far),
        f"mean error {100 * float(error[judged].mean()):.1f} %": error_picture(
            torch.where(judged, error, 0), judged, _DARKEST
        ),
    }
    gray = (UNMEASURED, UNMEASURED, UNMEASURED)
    return with_legend(row(panels), [] if bool(judged.all()) else [((0, 0, 0), "not measured"), (gray, "not judged")])

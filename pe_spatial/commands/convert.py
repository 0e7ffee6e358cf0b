"""Convert weights of Perception Encoders and their detectors between layouts.

    pe-spatial convert --input PE-Spatial-B16-512 --output pe_b.safetensors --to timm
    pe-spatial convert --input my_run/best.pth --output encoder.safetensors --to official
    pe-spatial convert --input PE-Spatial-G14-448 --output pe_g_p16.pth --to detectron2 --patch-size 16
    pe-spatial convert --input mask_rcnn_PEspatial_G_coco36ep.pth --output g.pth --to pe_spatial --config pe_g_coco.yaml
    pe-spatial convert --input g.pth --output for_detectron2.pth --to detectron2
    pe-spatial convert --input deta_coco_1824pix.pth --output deta.pth --to pe_spatial \
        --config deta_pe_spatial_g_coco_3ep_1824px.yaml
    pe-spatial convert --input my_run --output merged.pth --to pe_spatial --merge

The input is the name of an encoder or a file in any known layout. `official` and `timm` write only the encoder, also
from a detector. `detectron2` converts a whole Mask R-CNN of pe_spatial, and any other file as an encoder. `pe_spatial`
converts a Mask R-CNN of Detectron2 or a DETA of the authors to ours; with its config, the result describes itself,
which prediction needs. `--merge` takes a checkpoint of pe_spatial with LoRA adapters, or a run, and merges them into
the encoder: the result is a whole checkpoint without adapters. It predicts the same, and can be converted further.
"""

import argparse

from pe_spatial.commands.options import CommandParser, add_shared, integer, positive

# a Detectron2 or mmengine program looks for the tensors under this key of a .pt or .pth file
LAYOUTS = {"detectron2": "model", "official": None, "pe_spatial": "state_dict", "timm": None}


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--input", required=True, metavar="NAME", help="name of an encoder, or a .pt, .pth or .safetensors file")
    add_shared(parser, "--output", "--allow-import", required=["--output"])
    add("--to", required=True, choices=LAYOUTS, help="layout to write")
    add("--variant", help="name of the encoder, or its fields as JSON; needed where the shapes do not tell")
    add("--patch-size", type=positive, metavar="N", help="resample the patch embedding of an encoder to this size")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="type to store; default: that of the input")
    add("--force", action="store_true", help="overwrite the output")
    add("--merge", action="store_true", help="merge the LoRA adapters of the input into its encoder")
    add_shared(parser, "--weights")
    add(
        "--config",
        metavar="NAME",
        help="config of the detector, which makes the result of --to pe_spatial describe itself",
    )
    geometry = parser.add_argument_group("geometry of a detector, for --to detectron2")
    add_shared(geometry, "--image-size")
    parser.set_defaults(image_size=1024)
    geometry.add_argument("--window", type=positive, default=32, metavar="N", help="side of its windows in patches")
    blocks = [12, 24, 36, 49]
    geometry.add_argument("--global-blocks", type=integer(0), nargs="*", default=blocks, metavar="N", help="no windows")
    parser.add_old_spellings(positionals=["--input", "--output"])


def run(options: argparse.Namespace) -> int:
    """Convert and say what was read, dropped and written."""
    from pe_spatial.commands.conversion import convert

    for note in convert(options):
        print(note)
    return 0

"""Mask R-CNN with PE-Spatial-B for Detectron2's LazyConfig: detection/mask_rcnn_pe_spatial_b_coco_36ep over there.

    python <detectron2>/tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file configs/detectron2/mask_rcnn_pe_spatial_b_coco_detectron2.py

Cost and score: not measured. A released detector: train.init_checkpoint=mask_rcnn_PE….pth, with that encoder below.
"""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from pe_spatial.detection.detectron2_adapter import LayerDecay, feature_pyramid, mask_rcnn

VARIANT = "PE-Spatial-B16-512"
SIZE = 1024

model = mask_rcnn(
    feature_pyramid(
        {
            "variant": VARIANT,
            "weights": VARIANT,
            "window": 32,
            "global_blocks": [2, 5, 8, 11],
            "rope": "interpolate",
            "pos_embed": "tile",
            "drop_path": 0.1,
        },
        square_pad=SIZE,
    ),
    num_classes=80,
)
model.pixel_mean = model.pixel_std = [127.0, 127.0, 127.0]  # the official detectors' own, not the encoders' 127.5

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.total_batch_size = 64
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.recompute_boxes = True  # after the crop
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=SIZE, target_width=SIZE),
    L(T.FixedSizeCrop)(crop_size=(SIZE, SIZE), pad=False),
]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=SIZE, max_size=SIZE)]

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = 1e-4
optimizer.weight_decay = 0.1
optimizer.params.weight_decay_norm = None  # norms are decayed like everything else, as officially
optimizer.params.overrides = {}
optimizer.params.lr_factor_func = L(LayerDecay)(variant=VARIANT, decay=0.7)

train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = ""
train.amp.enabled = True
train.ddp.fp16_compression = True
train.max_iter = 66375

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[59000, 63916], num_updates=66375),
    warmup_length=91 / 66375,
    warmup_factor=0.001,
)

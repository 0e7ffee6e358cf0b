"""The heads of transformers, as small as they come, on a small encoder of 32 channels and 4 blocks."""

import transformers as tf

VARIANT = {"base": "PE-Spatial-T16-512", "width": 32, "depth": 4, "heads": 2, "image_size": 64}
_DETR = {
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,  # with 1, transformers 5.24 cannot tie the weights of several of them
    "num_queries": 6,
    "num_labels": 3,
}
_RT_DETR = {
    **_DETR,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [32] * 3,
    "decoder_in_channels": [32] * 3,
    "feat_strides": [8, 16, 32],
    "hidden_expansion": 0.5,
    "num_denoising": 0,
}
_DEPTH = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 16}
_DEPTH_ANYTHING = {**_DEPTH, "reassemble_hidden_size": 32, "patch_size": 16, "head_hidden_size": 8}
_ZOE = {
    **_DEPTH,
    "readout_type": "project",
    "bottleneck_features": 16,
    "num_attractors": [2, 2, 2, 1],
    "bin_embedding_dim": 8,
    "bin_configurations": [{"n_bins": 8, "min_depth": 0.1, "max_depth": 10.0, "name": "room"}],
}
_MASKS = {"mask_feature_size": 32, "num_labels": 3}
_MASK2FORMER = {
    **_MASKS,
    "feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 5,
}
_UPERNET = {
    "hidden_size": 16,
    "auxiliary_in_channels": 32,
    "auxiliary_channels": 8,
    "num_labels": 3,
    "pool_scales": [1, 2],
}

# model type -> (class of the head, class of its config, options, number of stages)
HEADS = {
    "upernet": (tf.UperNetForSemanticSegmentation, tf.UperNetConfig, _UPERNET, 4),
    "mask2former": (tf.Mask2FormerForUniversalSegmentation, tf.Mask2FormerConfig, _MASK2FORMER, 4),
    "maskformer": (
        tf.MaskFormerForInstanceSegmentation,
        tf.MaskFormerConfig,
        {**_MASKS, "fpn_feature_size": 32, "decoder_config": tf.DetrConfig(**_DETR)},
        4,
    ),
    "rt_detr": (tf.RTDetrForObjectDetection, tf.RTDetrConfig, _RT_DETR, 3),
    "rt_detr_v2": (tf.RTDetrV2ForObjectDetection, tf.RTDetrV2Config, _RT_DETR, 3),
    "d_fine": (tf.DFineForObjectDetection, tf.DFineConfig, _RT_DETR, 3),
    "deformable_detr": (
        tf.DeformableDetrForObjectDetection,
        tf.DeformableDetrConfig,
        {**_DETR, "num_feature_levels": 4},
        3,
    ),
    "detr": (tf.DetrForObjectDetection, tf.DetrConfig, _DETR, 1),
    "conditional_detr": (tf.ConditionalDetrForObjectDetection, tf.ConditionalDetrConfig, _DETR, 1),
    "dab_detr": (tf.DabDetrForObjectDetection, tf.DabDetrConfig, {**_DETR, "hidden_size": 32}, 1),
    "dpt": (tf.DPTForDepthEstimation, tf.DPTConfig, {**_DEPTH, "readout_type": "project"}, 4),
    "depth_anything": (tf.DepthAnythingForDepthEstimation, tf.DepthAnythingConfig, _DEPTH_ANYTHING, 4),
    "prompt_depth_anything": (
        tf.PromptDepthAnythingForDepthEstimation,
        tf.PromptDepthAnythingConfig,
        _DEPTH_ANYTHING,
        4,
    ),
    "zoedepth": (tf.ZoeDepthForDepthEstimation, tf.ZoeDepthConfig, _ZOE, 4),
    "vitpose": (tf.VitPoseForPoseEstimation, tf.VitPoseConfig, {"num_labels": 3}, 1),
}
del HEADS["dab_detr"][2]["d_model"]  # the one that calls it hidden_size
FORMS = {
    "form='maps'": {"form": "maps"},
    "form='pyramid'": {"form": "pyramid", "pyramid_channels": 32},
    "form='tokens', first_token=True": {"form": "tokens"},
    "form='tokens', first_token=False": {"form": "tokens", "first_token": False},
}


def options_of(head, form):
    """Options of `PEConfig` for a head: the last stages, as many as it reads."""
    stages = [1, 2, 3, 4][-HEADS[head][3] :]
    sizes = {"image_size": (64, 96), "patch_size": (16, 16)} if head == "vitpose" else {}
    return {"variant": VARIANT, "out_indices": stages, **FORMS[form], **sizes}


def head_config(head, backbone_config):
    _, config_class, options, _ = HEADS[head]
    return config_class(backbone_config=backbone_config, **options)

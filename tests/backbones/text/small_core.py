"""A PE-Core that several tests build in no time."""

TINY = {
    "name": "tiny",
    "patch_size": 8,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "mlp_ratio": 2,
    "image_size": 16,
    "cls_token": True,
    "ln_post": True,
    "attn_pool": True,
    "output_dim": 12,
    "text": {"context": 16, "width": 16, "depth": 1, "heads": 2},
}

"""DETA checkpoints of the authors (`deta_coco_1824pix.pth` of `facebook/PE-Detection`) to our `DETA`.

A tensor is renamed and not changed, but for the position table, [1, N, C] there, and the heads of the classes. There
a column is a category id of the dataset (91 for COCO, whose ids go to 90), here a label. What is dropped: rotary
tables, which follow from the geometry; the heads' second names under `transformer.decoder`; columns that are no
category's.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pe_spatial.backbones.weights import Layout, to_official
from pe_spatial.common.tensors import WeightsError
from pe_spatial.detection.renaming import rename

# prefix there -> prefix here, the encoder apart; the first that fits counts
_PREFIXES = {
    "backbone.0.body.fpn1.0.": "neck.upsample.",
    "input_proj.": "neck.input_proj.",
    "class_embed.": "transformer.class_embed.",
    "bbox_embed.": "transformer.bbox_embed.",
    "transformer.": "transformer.",
}
_ENCODER_THERE = "backbone.0.body."
_ENCODER_HERE = "backbone.encoder."
_ALIAS = "transformer.decoder."
_HEADS = (_ALIAS + "class_embed.", _ALIAS + "bbox_embed.")


def is_deta(keys: Sequence[str]) -> bool:
    """Whether a state dict is one of the authors' DETA."""
    return any(key.startswith(_ENCODER_THERE) for key in keys) and "transformer.level_embed" in keys


def from_authors(
    tensors: Mapping[str, Tensor], category_ids: Sequence[int] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename the state dict of the authors' DETA to that of our `DETA`.

    Args:
        tensors: State dict.
        category_ids: Category id of every label 0…K-1; the heads keep the columns of these only. The encoder's head
            keeps column 0, which is objectness, in the place of label 0; what its other columns say is not used.
            None keeps all columns: a label is then a category id.

    Returns:
        The renamed tensors, and the keys that were dropped, each with the reason.

    Raises:
        WeightsError: Keys without a counterpart; second names with other values; category ids beyond the heads.
    """
    body = {key: tensor for key, tensor in tensors.items() if key.startswith(_ENCODER_THERE) and ".fpn" not in key}
    encoder, dropped = to_official(body, Layout("DETA", _ENCODER_THERE))
    ours = {_ENCODER_HERE + key: tensor for key, tensor in encoder.items()}
    for key in tensors:
        if key.startswith(_HEADS):
            _check_alias(tensors, key)
            dropped[key] = "second name of a head"
    rest = {key: tensor for key, tensor in tensors.items() if key not in body and key not in dropped}
    ours |= rename(rest, _PREFIXES, "a two-stage DETA with box refinement on the plain backbone")
    if category_ids is not None:
        _choose_columns(ours, category_ids)
    return ours, dropped


def _check_alias(tensors: Mapping[str, Tensor], key: str) -> None:
    alias, original = tensors[key], tensors.get(key.removeprefix(_ALIAS))
    if original is None or original.shape != alias.shape or not (alias.is_meta or torch.equal(original, alias)):
        raise WeightsError(f"{key} differs from {key.removeprefix(_ALIAS)}, whose second name it is; give another file")


def _choose_columns(ours: dict[str, Tensor], category_ids: Sequence[int]) -> None:
    heads = [key for key in ours if key.startswith("transformer.class_embed.")]
    columns = len(ours[heads[0]])
    if not category_ids or min(category_ids) < 0 or max(category_ids) >= columns:
        raise WeightsError(
            f"the class heads have {columns} columns, one for every category id from 0; but ids {min(category_ids)} to "
            f"{max(category_ids)} of {len(category_ids)} classes are requested; give the config of the dataset that "
            f"it was trained on"
        )
    last = max(int(key.split(".")[2]) for key in heads)
    for key in heads:
        index = list(category_ids)
        if int(key.split(".")[2]) == last:  # the encoder's
            index[0] = 0
        ours[key] = ours[key][index]

"""Which data a run has seen, so that it is not continued on other data without a word."""

from collections.abc import Mapping
from typing import Any

from pe_spatial.common.errors import CheckpointError


def identity(dataset: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any dataset
    """Number of images and a digest of a dataset that knows its `fingerprint`; None of another."""
    fingerprint = getattr(dataset, "fingerprint", None)
    return None if fingerprint is None else {"images": len(dataset), "digest": fingerprint()}


def check_identity(before: dict[str, Any] | None, dataset: Any, path: str) -> None:  # noqa: ANN401
    """Compare the data of a checkpoint with what the run would go on with.

    Args:
        before: Of the checkpoint; None where an earlier version wrote it.
        dataset: Of the run from now on.
        path: Of the checkpoint, for the message.

    Raises:
        CheckpointError: They differ.
    """
    now = identity(dataset)
    if before is None or now is None or before == now:
        return
    if not isinstance(before, Mapping) or not isinstance(before.get("images"), int):
        raise CheckpointError(f"{path}: damaged: its entry pe_spatial.data is {before!r:.80}; use another checkpoint")
    counts = f"{before['images']} images before, {now['images']} now"
    what = "other pictures or objects" if before["images"] == now["images"] else counts
    raise CheckpointError(
        f"{path}: the training data differ from those of this run ({what}), so their order would differ too; restore "
        f"them, or start a new run from these weights with load_from={path}"
    )

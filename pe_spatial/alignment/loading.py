"""Maps of a teacher's cache in a training pipeline."""

from functools import cached_property
from typing import Any

from mmengine.registry import TRANSFORMS

from pe_spatial.alignment.cache import CacheError, TeacherCache
from pe_spatial.alignment.token_map import TokenMap
from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import OptionError
from pe_spatial.data import ImageFolder


@TRANSFORMS.register_module()
class LoadTeacherMap(Loader):
    """Adds the cached map of an image as its `mask_logits`; stands right after LoadImage.

    The map is of the image as it is on disk. The transforms that follow move it together with the image, so that a
    token's vector remains that of the place that the token covers. Three things differ from a teacher that sees the
    augmented image itself: colors are jittered for the student alone; a crop keeps the prompts outside it, as further
    channels that tell segments apart; and between the tokens of the cache the map is interpolated.

    Args:
        cache: Folder of a complete cache of the very images of the dataset, an `ImageFolder` or `TarImages`.
    """

    def __init__(self, cache: str) -> None:
        self.folder = cache

    @cached_property
    def cache(self) -> TeacherCache:
        """Opened when a dataset comes, so that a config can be looked at without its data."""
        cache = TeacherCache(self.folder)
        cache.check_complete()
        return cache

    def check_dataset(self, dataset: Any) -> None:
        """Called by the dataset at its construction.

        Raises:
            CacheError: It is no cache or of another list of images, or shards are missing or damaged.
        """
        if not isinstance(dataset, ImageFolder):
            raise CacheError(
                f"{self.folder} belongs to a list of images, but {type(dataset).__name__} has no such list; use "
                "ImageFolder or TarImages"
            )
        self.cache.check_images(dataset.identities())

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one map.

        Raises:
            CacheError: The shard is damaged; names it.
            OptionError: The image has been changed already.
            UnreadableFile: The image could not be read when the cache was made.
        """
        if "ori_shape" not in sample or sample["img"].shape[-2:] != sample["ori_shape"]:
            raise OptionError("LoadTeacherMap needs the unchanged image; put it directly after LoadImage")
        return {**sample, "mask_logits": TokenMap(self.cache.read(sample["img_id"]), sample["ori_shape"])}

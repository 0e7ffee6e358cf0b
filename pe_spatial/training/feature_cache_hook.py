"""Training on the cached maps of a frozen encoder; see `feature_cache.py` for what is stored."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import barrier, get_dist_info
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pe_spatial.common.console import progress
from pe_spatial.common.errors import ConfigError, require_positive
from pe_spatial.data import DenseDataset, Draw
from pe_spatial.training.feature_cache import (
    CachedViews,
    FeatureCache,
    describe_data,
    describe_encoder,
    open_cache,
    values_of,
)


@HOOKS.register_module()
class CachedFeaturesHook(Hook):
    """Computes the maps of all training pictures before training, which then runs the model without its encoder.

    Validation, and the checkpoints, are those of the whole model. A draw of a picture takes one of `views` augmented
    copies, by its number, so a resumed run is the one that was not interrupted.

    Args:
        views: Augmented copies of every picture.
        folder: Of all caches; None takes `feature_cache` beside the folder of the run.

    Raises:
        OptionError: No view.
    """

    priority = "NORMAL"  # before the run opens its folder

    def __init__(self, views: int = 1, folder: str | None = None) -> None:
        require_positive(views=views)
        self.views = views
        self.folder = folder
        self._maps: tuple[Tensor, ...] | None = None
        self._replaced: list[tuple[nn.Module, str]] = []  # methods, for the time of the training

    def before_train(self, runner: Runner) -> None:
        """Fill the cache, and give the loop its content.

        Raises:
            ConfigError: The encoder learns, the data are none that draws can be made of, or no labels of pixels.
        """
        self._device = next(runner.model.parameters()).device
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone, loader = getattr(model, "backbone", None), runner.train_dataloader
        if backbone is None:
            raise ConfigError(
                f"cached features come from the backbone, and {type(model).__name__} has none; leave out "
                "--cache-features"
            )
        if not isinstance(backbone, nn.Module) or any(p.requires_grad for p in backbone.parameters()):
            raise ConfigError(
                "cached features need a frozen encoder; set model.backbone.frozen=true, or leave out --cache-features"
            )
        if not isinstance(loader.dataset, DenseDataset):
            raise ConfigError(f"cached features need one dataset of this package, not {type(loader.dataset).__name__}")
        cache, size = self._fill(runner, model, backbone)
        views = CachedViews(cache, loader.dataset, self.views, size)
        # the loader of the config stays, for the hooks that describe it; the same sampler resumes
        cached = DataLoader(views, batch_sampler=loader.batch_sampler, collate_fn=_as_it_is)
        runner.train_loop.dataloader_iterator = _InfiniteDataloaderIterator(cached)
        preprocessor = model.data_preprocessor
        self._preprocess, self._encode = preprocessor.forward, backbone.forward
        self._replace(preprocessor, "forward", self._take_maps)
        self._replace(backbone.eval(), "forward", self._forward)
        # the loop says it in every step, and every module of the encoder would pass it on
        self._replace(backbone, "train", lambda mode=True: backbone)

    def after_train(self, runner: Runner) -> None:
        """Give the model its own methods back."""
        while self._replaced:
            delattr(*self._replaced.pop())

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Make sure that the model asked for the maps.

        Raises:
            ConfigError: It did not: it uses the encoder in another way.
        """
        if self._maps is not None:
            raise ConfigError(
                f"{type(runner.model).__name__} uses more of its encoder than its maps, so they cannot be cached; "
                "leave out --cache-features"
            )

    def _replace(self, module: nn.Module, name: str, method: Callable[..., Any]) -> None:
        setattr(module, name, method)
        self._replaced.append((module, name))

    def _take_maps(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        if "maps" not in data:  # validation
            return self._preprocess(data, training)
        self._maps = tuple(item.to(self._device, torch.float32, non_blocking=True) for item in data["maps"])
        inputs, samples = (data[key].to(self._device) for key in ("inputs", "data_samples"))
        return {"inputs": inputs, "data_samples": samples}

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._maps is None:  # validation
            return self._encode(x)
        maps, self._maps = self._maps, None
        return maps

    def _fill(self, runner: Runner, model: nn.Module, backbone: nn.Module) -> tuple[FeatureCache, tuple[int, int]]:
        """The complete cache, and the size (H, W) of the pictures that its maps are of."""
        dataset, seed = runner.train_dataloader.dataset, runner.seed
        count = len(dataset)
        preprocess: Callable[..., Any] = model.data_preprocessor  # type: ignore[assignment]
        batch = runner.train_dataloader.batch_sampler.batch_size

        @torch.no_grad()
        def compute(rows: Sequence[int]) -> tuple[dict[str, Tensor], tuple[int, int]]:
            draws = [Draw(row % count, row, seed) for row in rows]
            data = preprocess(pseudo_collate([dataset[draw] for draw in draws]), True)
            with runner.optim_wrapper.optim_context(runner.model):
                maps = backbone(data["inputs"])
            return values_of(maps, data["data_samples"]), tuple(data["inputs"].shape[-2:])

        first, size = compute([0])
        settings = runner.cfg.to_dict()
        header = {
            "encoder": describe_encoder(backbone, settings["model"]["backbone"]),
            "preprocessor": settings["model"].get("data_preprocessor"),
            "pipeline": settings["train_dataloader"]["dataset"]["pipeline"],
            "data": describe_data(dataset),
            "size": list(size),
            "precision": settings["optim_wrapper"].get("type"),
            "seed": seed,
            "views": self.views,
        }
        folder = Path(self.folder or Path(settings["work_dir"]).parent / "feature_cache")
        rank, processes = get_dist_info()
        if rank == 0:
            open_cache(folder, header, count * self.views, first)
        barrier()  # from here on the files exist for all
        cache = open_cache(folder, header, count * self.views, first)
        todo = cache.missing()
        barrier()  # all know the same
        runner.logger.info(f"features: {len(todo)} of {self.views} x {count} views to compute, in {cache.folder}")
        mine = todo[rank::processes]
        model.train()
        with progress("features", len(mine), "views", shown=rank == 0 and bool(mine)) as bar:
            for start in range(0, len(mine), batch):
                rows = mine[start : start + batch]
                values, found = compute(rows)
                if found != size:
                    raise ConfigError(f"training pictures of {size} and {found} (H, W): {_ONE_SIZE}")
                cache.write(rows, values)
                bar.advance(len(rows))
        barrier()
        return cache, size


_ONE_SIZE = "cached features need one size; end the pipeline of training with a crop or a resize to (H, W)"


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401 - what the dataset makes of a list of draws
    return batch

"""Parameter groups with layer-wise learning-rate decay."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from pe_spatial.common.errors import ConfigError
from pe_spatial.training.checkpoint_hook import unwrap


@dataclass(frozen=True)
class ParamwiseOptions:
    """What `optim_wrapper.paramwise_cfg` may say. The defaults are those of the official detection recipes.

    Args:
        layer_decay: Factor on the learning rate per backbone layer, counted from the heads down: a parameter of layer i
            (0 = embeddings) is scaled by `layer_decay ** (num_layers - i)`; all else by 1.
        norm_decay: Whether weight decay applies to normalization layers and to layer scale.
        bias_decay: … to biases.
        embedding_decay: … to position embeddings and to class tokens.
        rate_factors: More factors on the learning rate, by a part of the parameter's dotted name.
    """

    layer_decay: float = 1.0
    norm_decay: bool = True
    bias_decay: bool = True
    embedding_decay: bool = True
    rate_factors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"layer_decay {self.layer_decay} must be above 0 and at most 1; 1 gives every layer the same rate"
            )
        for part, factor in self.rate_factors.items():
            if not factor > 0:
                raise ConfigError(
                    f"rate_factors.{part} {factor} must be above 0; freeze parts that should not be trained"
                )

    def rate_factor(self, name: str) -> float:
        """Product of the factors that name a part of a parameter's dotted name."""
        return prod(factor for part, factor in self.rate_factors.items() if part in name)

    def decays(self, name: str, dimensions: int) -> bool:
        """Whether weight decay applies to a parameter, given its dotted name and number of dimensions."""
        if name.endswith("bias"):
            return self.bias_decay
        if any(word in name for word in ("positional_embedding", "pos_embed", "class_embedding", "cls_token")):
            return self.embedding_decay
        return self.norm_decay or dimensions > 1


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor:
    """Builds the optimizer with few groups, one per (learning rate, weight decay). Frozen parameters are left out.

    The model's `backbone` must offer `layer_of(name) -> int` and `num_layers` (names relative to the backbone) if
    `layer_decay` is below 1.

    Args:
        optim_wrapper_cfg: `type`, `optimizer` and the other arguments of the wrapper.
        paramwise_cfg: See `ParamwiseOptions`.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))
        self.options = ParamwiseOptions(**(paramwise_cfg or {}))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper.

        Raises:
            ConfigError: Every parameter is frozen, or layer decay is asked of a backbone without `layer_of`.
        """
        model = unwrap(model)
        groups = self.parameter_groups(model)
        print_log(_describe(groups), logger="current")
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": groups})
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **self.wrapper_cfg, "optimizer": optimizer})

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Groups for a torch optimizer, from the largest learning rate to the smallest."""
        self._check_names(model)
        weight_decay = self.optimizer_cfg.get("weight_decay", 0.0)
        members: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                decay = weight_decay if self.options.decays(name, parameter.ndim) else 0.0
                scale = self._scale(name, model) * self.options.rate_factor(name)
                members.setdefault((scale, decay), []).append(parameter)
        if not members:
            raise ConfigError("every parameter of the model is frozen, so there is nothing to train; unfreeze a part")
        rate = self.optimizer_cfg["lr"]
        return [
            {"params": members[scale, decay], "lr": rate * scale, "weight_decay": decay}
            for scale, decay in sorted(members, reverse=True)
        ]

    def _check_names(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters()]
        for part in self.options.rate_factors:
            if not any(part in name for name in names):
                raise ConfigError(f"rate_factors: no parameter has a name with {part!r}")

    def _scale(self, name: str, model: Any) -> float:
        decay = self.options.layer_decay
        if decay == 1 or not name.startswith("backbone."):
            return 1.0
        backbone = model.backbone
        if not hasattr(backbone, "layer_of"):
            raise ConfigError(
                f"layer_decay {decay} needs layer_of(name), which {type(backbone).__name__} lacks; set it to 1"
            )
        return decay ** (backbone.num_layers - backbone.layer_of(name.removeprefix("backbone.")))


def _describe(groups: list[dict[str, Any]]) -> str:
    rates = [group["lr"] for group in groups]
    decays = sorted({group["weight_decay"] for group in groups})
    count = sum(parameter.numel() for group in groups for parameter in group["params"])
    return (
        f"optimizer: {count:,} parameters in {len(groups)} groups, learning rate {min(rates):.2e} to {max(rates):.2e}, "
        f"weight decay {', '.join(f'{decay:g}' for decay in decays)}"
    )

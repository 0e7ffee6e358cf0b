"""A request that fits into a memory: the planner chooses batch, precision, tuning and image size."""

import os
from dataclasses import replace

from mmengine.config import Config

from pe_spatial.common.errors import OptionError
from pe_spatial.common.memory import parse_memory
from pe_spatial.own.request import Request
from pe_spatial.training.distributed import adopt_slurm
from pe_spatial.training.planner import plan
from pe_spatial.training.planner.inputs import training_size
from pe_spatial.training.planner.rows import Row, overrides_for


def count_processes() -> int:
    """How many torchrun or srun has started."""
    adopt_slurm(os.environ)
    return int(os.environ.get("WORLD_SIZE", "1"))


def fit_request(request: Request, config: Config) -> tuple[Request, str, Row]:
    """The request with the changes that let it fit into its memory, a sentence that names them, and what it then takes.

    Args:
        request: With `memory`.
        config: That it comes to without.

    Raises:
        OptionError: Memory that is no amount; or several processes, which could choose differently.
        UserError: Nothing fits; names the smallest.
    """
    if request.memory is None:
        raise OptionError("memory is not given; a plan needs an amount, such as 12gb, or auto")
    if (processes := count_processes()) > 1:
        raise OptionError(
            f"memory {request.memory} with {processes} processes, which could choose different settings; plan in one "
            "process with --print-config, and start all processes with --config"
        )
    found = plan(config, parse_memory(request.memory))
    row = found.chosen
    size = None if row.image_size == training_size(config) else row.image_size
    changes = overrides_for(config, row.variation, (row.batch, row.accumulation), size, lengths=False)
    return replace(request, memory=None, overrides=(*request.overrides, *changes)), found.summary(changes), row

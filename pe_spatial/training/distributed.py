"""One process or many: torchrun and Slurm, CUDA (nccl) and CPU (gloo), and how many threads each process uses."""

import os
import subprocess
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import cv2
import torch
from torch import distributed as dist

from pe_spatial.common.devices import available_cores
from pe_spatial.common.errors import UserError


def set_up(config: Any) -> dict[str, Any]:
    """Join the process group that torchrun or srun has started, if any.

    mmengine cannot do it without CUDA: its launcher selects a CUDA device and its DDP wrapper asks for one.

    Returns:
        The config entries with which mmengine's Runner uses that group.
    """
    use_cuda = torch.cuda.is_available()
    seconds = ((config.get("env_cfg") or {}).get("dist_cfg") or {}).get("timeout", 1800)
    if not _join(config, "nccl" if use_cuda else "gloo", timedelta(seconds=seconds)):
        return {"launcher": "none"}
    wrapper = config.get("model_wrapper_cfg")
    if not use_cuda and (wrapper is None or wrapper.get("type") == "MMDistributedDataParallel"):
        unused = config.get("find_unused_parameters", False)
        defaults = {"type": "MMDistributedDataParallel", "broadcast_buffers": False, "find_unused_parameters": unused}
        return {"launcher": "pytorch", "model_wrapper_cfg": {**defaults, **(wrapper or {}), "device_ids": None}}
    return {"launcher": "pytorch"}


def join_processes() -> tuple[int, int]:
    """Join the processes that torchrun or srun has started for work that is split by files, each on its own device.

    Unlike a training's, the group is for words at the end, not for tensors, and a process may wait days for another.

    Returns:
        The number of this process and how many there are: (0, 1) for a single one.
    """
    return (dist.get_rank(), dist.get_world_size()) if _join({}, "gloo", timedelta(days=365)) else (0, 1)


def _join(config: Any, backend: str, timeout: timedelta) -> bool:
    """Set the threads, and join the group that torchrun or srun has started; False if this is the only process."""
    adopt_slurm(os.environ)
    set_threads(config)
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=timeout)
    return True


def adopt_slurm(environment: MutableMapping[str, str]) -> None:
    """Turn the variables of a step that srun started with several tasks into those of torchrun.

    Raises:
        UserError: scontrol cannot tell the name of the first node.
    """
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1 or "RANK" in environment:
        return  # a batch script or an interactive shell has SLURM_PROCID too, but is one process
    if "MASTER_ADDR" not in environment:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        try:
            listing = subprocess.run(
                ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"scontrol cannot resolve the nodes {nodes!r}; set MASTER_ADDR to the first one") from error
        environment["MASTER_ADDR"] = listing.stdout.split()[0]
    # one port per job, so that two jobs on a node do not meet
    environment.setdefault("MASTER_PORT", str(20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000))
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = str(tasks)
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", str(tasks))  # "4(x2)": four on each of two nodes
    environment["LOCAL_WORLD_SIZE"] = per_node.partition("(")[0]
    # with --gpus-per-task a process sees its own GPU only, as number 0
    devices = torch.cuda.device_count() or tasks
    environment["LOCAL_RANK"] = str(int(environment["SLURM_LOCALID"]) % devices)


def set_threads(config: Any) -> None:
    """Share the cores among the processes of this machine and their loader workers, unless OMP_NUM_THREADS is set.

    Threads that outnumber the cores spin against each other, which costs a factor of 5 to 20.
    """
    cv2.setNumThreads(0)
    if "OMP_NUM_THREADS" in os.environ:
        return
    workers = (config.get("train_dataloader") or {}).get("num_workers", 0)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, available_cores() // processes - workers))

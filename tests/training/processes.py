"""Runs in several processes (gloo, CPU), as under torchrun."""

import os
import socket

import torch
from children import CONTEXT

from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate, train


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def rank(number, world_size, port, config_path, work_dir, overrides, resume):
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK=str(number),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES="",
    )
    torch.set_num_threads(1)
    config = load_config(config_path, overrides)
    config.work_dir = str(work_dir)
    if resume == "evaluate":
        evaluate(config)
    else:
        train(config, resume)
    torch.distributed.destroy_process_group() if torch.distributed.is_initialized() else None


def launch(config_path, work_dir, world_size=2, overrides=(), resume="no"):
    """Like torchrun, but torch is not imported again."""
    port = free_port()
    processes = [
        CONTEXT.Process(target=rank, args=(number, world_size, port, config_path, work_dir, overrides, resume))
        for number in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world_size

"""Several processes that train one network together, as `torchrun` starts them.

Each takes its share of every batch, and all make the same updates. Rank 0 alone writes and prints.
What they tell each other are tensors: nothing is pickled. In one process all of this does nothing.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mnist_mlp.errors import LostProcessError
from mnist_mlp.updates.ranks import processes, rank

_RUN_DIRECTORY = "mnist_mlp/run_directory"


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other processes for as long as the context lasts.

    Raises:
        LostProcessError: One of them does not come, or goes.
    """
    if processes() == 1:
        yield
        return
    backend, store = "nccl" if device.type == "cuda" else "gloo", _agents_store()
    with _others():
        if store:
            # Under names of its own: the agent's store still holds the last start's addresses.
            start = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{processes()}"
            store = dist.PrefixStore(f"mnist_mlp/{start}", store)  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=rank(), world_size=processes())
        else:
            dist.init_process_group(backend)
    try:
        yield
        largest_of_processes(0, device)  # none leaves while another still listens to it
    finally:
        with suppress(RuntimeError):  # that others have gone before is no matter now
            dist.destroy_process_group()


def sum_over_processes(tensor: Tensor) -> None:
    """Put the sum over all processes into the tensor of each."""
    if processes() > 1:
        with _others():
            dist.all_reduce(tensor)


def largest_of_processes(value: int, device: torch.device) -> int:
    """The largest of all processes' values."""
    if processes() == 1:
        return value
    values = torch.tensor([value], device=device)
    with _others():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def told_by_rank_0(content: bytes, device: torch.device) -> bytes:
    """Rank 0's content, for all."""
    if processes() == 1:
        return content
    size = torch.tensor([len(content)], device=device)
    with _others():
        dist.broadcast(size, 0)
        told = torch.empty(int(size), dtype=torch.uint8, device=device)
        if rank() == 0 and content:
            told.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(told, 0)
    return told.cpu().numpy().tobytes()


def remember_run_directory(path: str) -> None:
    """Leave word of where a run is recorded, for when `torchrun` starts its processes again."""
    if store := _agents_store():
        store.set(_RUN_DIRECTORY, path)


def remembered_run_directory() -> str | None:
    """Where the run is recorded that these processes are to go on with; None at a first start."""
    store = _agents_store()
    if store and store.check([_RUN_DIRECTORY]):
        return str(store.get(_RUN_DIRECTORY).decode())
    return None


def _agents_store() -> Any:
    """The memory of torchrun's agent, which outlives the processes that it starts."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    with _others():
        return dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
        )


@contextmanager
def _others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and type(error) is not RuntimeError:
            raise  # a lack of memory, say
        # Less gloo's source file at its front and its good wishes at its end.
        reason = re.sub(r"^\[\S+] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise LostProcessError(
            f"rank {rank()}: another process of this job has ended or cannot be reached ({reason})"
            "\nwhat was saved goes on with --resume, or by itself under torchrun --max-restarts"
        ) from None

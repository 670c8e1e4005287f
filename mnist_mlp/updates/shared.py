"""Updates shared by several processes, as `torchrun` starts them, and what these tell each other.

Each process computes the gradient of its part of every batch. The gradients are summed, so that
all processes make the update that a single one would make, equal to rounding: after an epoch of
MNIST the losses agree to 1e-5. On CPUs this only shows how it works: the network is too small to
gain from it. A job whose process dies can go on with `torchrun --max-restarts`, or with `--resume`
in any number of processes. NCCL and several machines have not been tried.

The processes exchange tensors, and the run directory's name through torchrun's agent; nothing is
pickled. What training calls does nothing where there is one process.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mnist_mlp.constants import CLASSES
from mnist_mlp.errors import LostProcessError
from mnist_mlp.updates.deformation import DeformingUpdater
from mnist_mlp.updates.ranks import processes, rank

ASK_EVERY = 16  # updates after which the processes ask each other whether a progress report is due
_RUN_DIRECTORY = "mnist_mlp/run_directory"


@dataclass(eq=False)
class SharedUpdater(DeformingUpdater):
    """Each process computes a part of every batch, of deformed images if asked for.

    The parts may differ in size: each process's gradient, a mean over its part, is weighted by its
    share of the batch. Batch normalisation would need whole batches, and is refused.
    """

    def update(self, rows: slice | Tensor) -> Tensor:
        """See `TorchUpdater`."""
        assert isinstance(rows, slice)  # noqa: S101 - as `TorchUpdater.run_epoch` gives them
        start, stop, _ = rows.indices(len(self.order))
        count = stop - start
        mine = slice(count * rank() // processes(), count * (rank() + 1) // processes())
        images, labels = self.examples(slice(start + mine.start, start + mine.stop))
        logits = torch.zeros(count, CLASSES, device=images.device)
        logits[mine] = self.backward(images, labels)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = parameters_to_vector(gradients).mul_(len(labels) / count)
        _sum(flat)
        vector_to_parameters(flat, gradients)
        _sum(logits)  # so that each process has the rows of all
        self.optimizer.step()
        return logits

    def report_due(self, batch: int, overdue: bool) -> bool:
        """See `Updater`. All processes report after the same batch."""
        asked = (batch + 1) % ASK_EVERY == 0
        return asked and bool(largest_of_processes(overdue, self.train.labels.device))


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be connected to the other processes inside a `with` block.

    Here as below, a LostProcessError where another process does not start, or ends early.
    """
    if processes() == 1:
        yield
        return
    backend, store = "nccl" if device.type == "cuda" else "gloo", _agent_store()
    if store:
        # The agent's store still holds addresses of the last start, so each start has a prefix.
        start = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{processes()}"
        store = dist.PrefixStore(f"mnist_mlp/{start}", store)  # type: ignore[attr-defined]
    with _lost_process_errors():
        dist.init_process_group(backend, store=store, rank=rank(), world_size=processes())
    try:
        yield
        wait_for_processes(device)  # no process leaves while another still expects its messages
    finally:
        with suppress(RuntimeError):  # the others may have left already
            dist.destroy_process_group()


def largest_of_processes(value: int, device: torch.device) -> int:
    """The largest value that a process passes."""
    if processes() == 1:
        return value
    values = torch.tensor([value], device=device)
    with _lost_process_errors():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def wait_for_processes(device: torch.device) -> None:
    """Return when every process has called this."""
    largest_of_processes(0, device)


def remember_run_directory(path: str) -> None:
    """Tell torchrun's agent the run directory, for when it restarts the processes."""
    if store := _agent_store():
        store.set(_RUN_DIRECTORY, path)


def remembered_run_directory() -> str | None:
    """The run directory to resume after a restart; None at a first start."""
    store = _agent_store()
    if store and store.check([_RUN_DIRECTORY]):
        return str(store.get(_RUN_DIRECTORY).decode())
    return None


def _sum(tensor: Tensor) -> None:
    """Replace the tensor by its sum over all processes."""
    with _lost_process_errors():
        dist.all_reduce(tensor)


def _agent_store() -> Any:
    """The key-value store of torchrun's agent, which outlives the processes that it starts."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    with _lost_process_errors():
        return dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
        )


@contextmanager
def _lost_process_errors() -> Iterator[None]:
    """Turn a failed message into a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and type(error) is not RuntimeError:
            raise  # out of memory, for example
        # gloo puts its source file before the reason and advice after it.
        reason = re.sub(r"^\[\S+] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise LostProcessError(
            f"rank {rank()}: another process of this job has ended or cannot be reached ({reason})"
            "\nwhat was saved goes on with --resume, or by itself under torchrun --max-restarts"
        ) from None

"""Updates shared by several processes, as `torchrun` starts them.

Each process computes the gradient of its part of every batch. The gradients are summed, so that
all processes make the update that a single one would make, equal to rounding: after an epoch of
MNIST the losses agree to 1e-5. On CPUs this only shows how it works: the network is too small to
gain from it. A job whose process dies can go on with `torchrun --max-restarts`, or with `--resume`
in any number of processes. NCCL and several machines have not been tried.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mnist_mlp.constants import CLASSES
from mnist_mlp.updates.collectives import largest_of_processes, sum_over_processes
from mnist_mlp.updates.deformation import DeformingUpdater
from mnist_mlp.updates.ranks import processes, rank

ASK_EVERY = 16  # updates after which the processes ask each other whether a progress report is due


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
        sum_over_processes(flat)
        vector_to_parameters(flat, gradients)
        sum_over_processes(logits)  # so that each process has the rows of all
        self.optimizer.step()
        return logits

    def report_due(self, batch: int, overdue: bool) -> bool:
        """See `Updater`. All processes report after the same batch."""
        asked = (batch + 1) % ASK_EVERY == 0
        return asked and bool(largest_of_processes(overdue, self.train.labels.device))

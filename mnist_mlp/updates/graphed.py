"""An update recorded once as a CUDA graph and replayed: one call from Python instead of dozens.

What changes from update to update is data on the device: the position in the epoch. The graph
reads its examples and its learning rate there, and advances it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from mnist_mlp.updates.deformation import DeformingUpdater, draw

PIECE = 4096
"""Of a tensor, PyTorch's fused optimizers give up to 65,536 numbers to one of a GPU's hundred
processors. So they get pieces of about this many."""


@dataclass(eq=False)
class GraphedUpdater(DeformingUpdater):
    """`DeformingUpdater` as a CUDA graph. The optimizer's learning rate must be a tensor there.

    On a CPU nothing is recorded; the same operations run one by one. The optimizer's state of each
    parameter is whole, as without a graph.
    """

    def __post_init__(self) -> None:
        examples, device = len(self.train.labels), self.train.labels.device
        self.order = torch.empty(examples, dtype=torch.int64, device=device)
        self.learning_rates = torch.empty(-(-examples // self.batch_size), device=device)
        self.batch = torch.zeros(1, dtype=torch.int64, device=device)
        self.offsets = torch.arange(self.batch_size, device=device)
        self.coefficients = torch.empty(0, device=device)
        self.logits = torch.empty(0, device=device)
        self.replays: dict[int, Callable[[], None]] = {}
        group, state = self.optimizer.param_groups[0], self.optimizer.state
        momentum = ["momentum_buffer"] if group.get("momentum") else []
        keys = ["exp_avg", "exp_avg_sq"] if "betas" in group else momentum
        group["params"] = []
        for parameter in self.model.parameters():
            moments = {key: torch.zeros_like(parameter) for key in keys}
            rows = zip(_pieces(parameter.detach()), *map(_pieces, moments.values()), strict=True)
            for piece, *views in rows:
                state[piece] = dict(zip(keys, views, strict=True))
                if "betas" in group:
                    state[piece]["step"] = moments["step"] = torch.zeros((), device=device)
                group["params"].append(piece)
            state[parameter] = moments

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        self.model.train()
        examples, size = len(order), self.batch_size
        if self.logits is not logits:  # a graph writes to the tensor it was recorded with
            self.logits, self.replays = logits, {}
        self.order.copy_(order)
        self.learning_rates.copy_(torch.tensor(learning_rates))
        if self.deformation:
            drawn = draw(self.deformation, examples, self.seed, epoch)
            self.coefficients.resize_(drawn.shape).copy_(drawn)  # the same memory in every epoch
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"].fill_((epoch - 1) * len(learning_rates) + done)
        self.batch.fill_(done)
        for batch in range(done, len(learning_rates)):
            count = min(size, examples - batch * size)
            if count not in self.replays:
                self.replays[count] = self._record(count, batch)
            self.replays[count]()
            last = batch == len(learning_rates) - 1
            if last and self.deformation and epoch < self.deformation.epochs:
                draw(self.deformation, examples, self.seed, epoch + 1)  # while the device works
            yield batch

    def update(self, rows: slice | Tensor) -> Tensor:
        """See `TorchUpdater`."""
        images, labels = self.examples(rows)
        logits = self.backward(images, labels)
        pieces = iter(self.optimizer.param_groups[0]["params"])
        for parameter in self.model.parameters():
            for gradient in _pieces(cast(Tensor, parameter.grad)):
                next(pieces).grad = gradient
        self.optimizer.step()
        return logits

    def _make_next(self, count: int) -> None:
        """Make the update of the current batch, of `count` examples, and advance."""
        rows = self.batch * self.batch_size + self.offsets[:count]
        self.optimizer.param_groups[0]["lr"].copy_(self.learning_rates[self.batch][0])
        self.logits.index_copy_(0, rows, self.update(rows))
        self.batch += 1

    def _record(self, count: int, batch: int) -> Callable[[], None]:
        """A recording of `_make_next`. The weights and the optimizer are as before.

        Before recording, libraries and the optimizer need a few updates to initialise themselves.
        These are undone afterwards, in the position, the model and the optimizer's state.
        """
        before = [tensor.clone() for tensor in self._changing()]
        stream = torch.cuda.Stream() if self.batch.is_cuda else None  # type: ignore[no-untyped-call]
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable")  # not recorded yet
            for _ in range(3):
                self.batch.fill_(batch)
                self._make_next(count)
        replay: Callable[[], None] = partial(self._make_next, count)
        if stream:
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._make_next(count)
            replay = graph.replay
        self.batch.fill_(batch)
        for tensor, value in zip(self._changing(), before, strict=True):
            tensor.copy_(value)
        return replay

    def _changing(self) -> Iterator[Tensor]:
        """What an update changes."""
        yield from self.model.state_dict().values()
        for state in self.optimizer.state.values():
            yield from state.values()


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Views of some rows each."""
    return torch.split(tensor, max(1, PIECE // tensor[0].numel()))

"""The lesson's claims about any network, computed on the network of a checkpoint."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from mnist_mlp.constants import LESSON_LAYER_SIZES, LESSON_PARAMETERS
from mnist_mlp.lesson import measures
from mnist_mlp.lesson.claims import Claim, fill, judge_collapse, judge_small_step, judge_untrained
from mnist_mlp.runs.checkpoint import Checkpoint, weights_sha256
from mnist_mlp.steps.backprop import autograd, chain_rule, is_linear_relu_stack
from mnist_mlp.steps.data import Dataset, to_images
from mnist_mlp.steps.evaluate import Evaluation
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.predictions import predict_probabilities

BATCH = 64  # training images in the mini-batch of steps 2, 6 and 7


def check_network(
    checkpoint: Checkpoint, data: Dataset, rows: Sequence[EpochResult], test: Evaluation
) -> Iterator[Claim]:
    """Check the lesson's claims on a checkpoint's network and file, which are not changed.

    `rows` are the run's metrics; row 0 is the untrained network. `test` is the network's evaluation
    on the test set. The data is on the CPU.
    """
    model = copy.deepcopy(checkpoint.model).double()
    images, labels = to_images(data.train.pixels[:BATCH]).double(), data.train.labels[:BATCH]

    low, high = measures.intensity_range(data.train.pixels)
    yield fill("pixel-range", (low, high) == (0, 1), "of_run", low=low, high=high)
    if len(checkpoint.config.model.layer_sizes) == 2:
        yield fill("collapse", True, "one_layer", verdict="rule")
    else:
        yield judge_collapse(model, images)
    layers = count_parameters(checkpoint.model)
    total = sum(layer.parameters for layer in layers)
    counted = {"total": total, "layers": "; ".join(map(str, layers))}
    if checkpoint.config.model.layer_sizes == LESSON_LAYER_SIZES:
        yield fill("total", total == LESSON_PARAMETERS, "of_run", **counted)
    else:
        yield fill("total", True, "of_others", **counted, verdict="rule")
    p = torch.from_numpy(predict_probabilities(checkpoint.model, data.test.pixels))
    off = measures.sum_error(p)
    yield fill("sums-to-one", off < 1e-12, "of_run", off=off, images=len(p))
    if rows and rows[0].epoch == 0 and not checkpoint.environment.get("init_from"):
        yield judge_untrained(rows[0].train_loss, "the training images")
    yield _check_gradients(model, images, labels)
    yield judge_small_step(model, images, labels)
    yield from _check_records(checkpoint, test)


def _check_gradients(model: nn.Sequential, images: Tensor, labels: Tensor) -> Claim:
    if not is_linear_relu_stack(model):
        return fill("chain-rule", True, "not_relu", verdict="rule")
    by_hand, automatic = (
        parameters_to_vector(measures.gradients(model, path, images, labels).values())
        for path in (chain_rule, autograd)
    )
    apart, largest = (by_hand - automatic).abs().max().item(), automatic.abs().max().item()
    found = {"apart": apart, "largest": largest, "images": len(labels)}
    return fill("chain-rule", apart <= 1e-12 * max(1, largest), "of_run", **found)


def _check_records(checkpoint: Checkpoint, test: Evaluation) -> Iterator[Claim]:
    """Two claims of our own: the accuracy is as recorded, and the weights are the file's."""
    recorded = checkpoint.metrics.get("test_accuracy")
    if isinstance(recorded, float) and checkpoint.metrics.get("updates") == checkpoint.update:
        # With other threads one image more or less may be read correctly.
        ok = abs(test.accuracy - recorded) * test.examples < 1.5
        texts = "the test accuracy that training recorded", f"{recorded:.2%}"
        computed = f"{test.accuracy:.2%} on {test.examples:,} test images"
        yield Claim("test-accuracy", 8, *texts, computed, "holds" if ok else "differs", ok)
    with suppress(FileNotFoundError):  # a run that is being trained has deleted it
        file, network = load(checkpoint.path.read_bytes()), checkpoint.model.state_dict()
        ok = all(torch.equal(tensor, file[name]) for name, tensor in network.items())
        texts = "the network of this page is the one in its file", "equal"
        computed = f"weights_sha256 {weights_sha256(checkpoint.model)}"
        yield Claim("weights", 8, *texts, computed, "holds" if ok else "differs", ok)

"""The lesson's Step 8 as loops over the examples of a batch, for Numba to compile.

`make_updates` makes the updates of `steps/`, equal to rounding, on one thread. It leaves out what
is 0: a dark pixel (four of five are), or a neuron that did not fire, adds nothing to the next z,
and the gradient of its weights is 0. So each layer has a list of its inputs whose value is not 0.
Inputs are counted from 1. Each list begins with input 0, whose value is always 1 and whose weights
are the biases. The weights of an input lie together, as a row of θ = [b; Wᵀ], (1 + inputs,
outputs). Rows are padded with zeros to whole vector registers.
"""

from typing import NamedTuple

import numpy as np

from mnist_mlp.updates.machine_code import Array, disjoint, inlined, inner

BANDS = 4
"""Equal parts of an image. A batch's gradients are added part by part, so that the rows of one part
stay in the CPU's nearest caches."""
WIDTH = 128  # outputs of the lesson's layer 1: a loop of known length keeps its sums in registers


class Layer(NamedTuple):
    """The arrays of a layer. B examples go through it at a time, a batch or a piece of one.

    The listed inputs of example e are inputs[places[0, e]:places[-1, e]], and values has their
    values. Of layer 1, band k is [places[k, e]:places[k + 1, e]].
    """

    theta: Array  # (1 + inputs, outputs): [b; Wᵀ]; with batch norm two rows more, γ and β
    gradient: Array  # like theta: where ∂L/∂θ is added
    z: Array  # (B, outputs): W·a + b, and then ∂L/∂z in its place
    places: Array  # (1 + bands, B); of layers after the first (2, B)
    inputs: Array
    values: Array


class Norm(NamedTuple):
    """The arrays of a layer's batch normalisation.

    `running` has the running mean, the running variance, and then of this batch the deviation, the
    mean, and the gradients of γ and β.
    """

    normal: Array  # (B, outputs): z normalised
    running: Array  # (6, outputs)


Layers = tuple[Layer, ...]
Norms = tuple[Norm, ...] | None  # for each layer but the last; None without batch norm


class Sgd(NamedTuple):
    """Step 7's settings, as `build_optimizer` takes them; by default plain gradient descent."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


class Adam(NamedTuple):
    """The settings of Adam, or of AdamW, whose weight decay is decoupled."""

    decoupled: bool = False
    weight_decay: float = 0.0


def list_lit(images: Array, scale: float, starts: Array, inputs: Array, values: Array) -> None:
    """List layer 1's inputs: the pixels of images (N, 784) that are not 0, divided by the scale.

    Writes starts (1 + BANDS, N), whose columns become the `Layer.places` of a batch. Input 0 is in
    the first band. The lists have room for one entry more.
    """
    at, real, height = 0, values.dtype.type, images.shape[1] // BANDS
    for n in range(len(images)):
        starts[0, n], inputs[at], values[at] = at, 0, 1
        at += 1
        for band in range(BANDS):
            # Every pixel is written, and a dark one overwritten by the next: faster than a branch.
            for pixel in range(band * height, (band + 1) * height):
                inputs[at], values[at] = pixel + 1, real(images[n, pixel]) / real(scale)
                at += images[n, pixel] != 0
            starts[band + 1, n] = at


@disjoint
def weighted_sum(
    begin: int, end: int, inputs: Array, values: Array, theta: Array, z: Array
) -> None:
    """The forward pass of a layer, z = W·a + b, without the inputs that are 0."""
    for j in range(len(z)):
        z[j] = 0
    if len(z) == WIDTH:
        for i in range(begin, end):
            row, a = theta[inputs[i]], values[i]
            for j in range(WIDTH):
                z[j] += a * row[j]
        return
    i = begin
    while i + 4 <= end:  # four at a time: each z is read and written a quarter as often
        row0, row1, row2, row3 = (
            theta[inputs[i]], theta[inputs[i + 1]], theta[inputs[i + 2]], theta[inputs[i + 3]]
        )  # fmt: skip
        a0, a1, a2, a3 = values[i], values[i + 1], values[i + 2], values[i + 3]
        for j in range(len(z)):
            z[j] += a0 * row0[j] + a1 * row1[j] + a2 * row2[j] + a3 * row3[j]
        i += 4
    for last in range(i, end):
        row, a = theta[inputs[last]], values[last]
        for j in range(len(z)):
            z[j] += a * row[j]


@disjoint
def relu(z: Array, begin: int, inputs: Array, values: Array) -> int:
    """List the neurons that fired, a = ReLU(z), as inputs of the next layer; return the end."""
    for j in range(len(z)):
        inputs[begin] = j + 1
        values[begin] = z[j]
        begin += not z[j] <= 0  # nan goes on
    return begin


@disjoint
def loss_gradient(z: Array, logits: Array, label: int, factor: float) -> None:
    """Copy z to the logits. Then z = factor · (p − y); with factor 1 / B it is ∂L/∂z."""
    classes, largest = len(logits), z[0]
    for c in range(classes):
        logits[c] = z[c]
        largest = max(largest, z[c])
    total = z.dtype.type(0)
    for c in range(classes):
        z[c] = np.exp(z[c] - largest)
        total += z[c]
    for c in range(classes):
        z[c] = z.dtype.type(factor) * (z[c] / total - (c == label))
    for j in range(classes, len(z)):
        z[j] = 0


@inner
def backward(begin: int, end: int, inputs: Array, theta: Array, dz: Array, before: Array) -> None:
    """∂L/∂z of the layer before: da = Wᵀ·dz for the neurons that fired, 0 for the others."""
    for j in range(len(before)):
        before[j] = 0
    for i in range(begin + 1, end):  # after input 0
        row, da = theta[inputs[i]], dz.dtype.type(0)
        for j in range(len(dz)):
            da += row[j] * dz[j]
        before[inputs[i] - 1] = da


@disjoint
def add_gradient(
    begin: int, end: int, inputs: Array, values: Array, dz: Array, target: Array
) -> None:
    """Add ∂L/∂θ of one example to the target: ∂z/∂θ is the input."""
    if len(dz) == WIDTH:
        for i in range(begin, end):
            row, a = target[inputs[i]], values[i]
            for j in range(WIDTH):
                row[j] += a * dz[j]
        return
    for i in range(begin, end):
        row, a = target[inputs[i]], values[i]
        for j in range(len(dz)):
            row[j] += a * dz[j]


@disjoint
def normalize(z: Array, normal: Array, theta: Array, running: Array) -> None:
    """Batch normalisation: z becomes γ · (z − mean) / deviation + β, over the batch."""
    examples, real = z.shape[0], z.dtype.type
    gamma, beta, deviation, mean = theta[-2], theta[-1], running[2], running[3]
    for j in range(len(mean)):  # as slices they would take Numba longer to compile
        mean[j] = deviation[j] = 0
    for e in range(examples):
        for j in range(len(mean)):
            mean[j] += z[e, j] / real(examples)
    for e in range(examples):
        for j in range(len(mean)):
            normal[e, j] = z[e, j] - mean[j]
            deviation[j] += normal[e, j] * normal[e, j] / real(examples)
    for j in range(len(mean)):  # BatchNorm1d's own constants
        unbiased = deviation[j] * real(examples / (examples - 1))
        running[0, j] += real(0.1) * (mean[j] - running[0, j])
        running[1, j] += real(0.1) * (unbiased - running[1, j])
        deviation[j] = np.sqrt(deviation[j] + real(1e-5))
    for e in range(examples):
        for j in range(len(mean)):
            normal[e, j] /= deviation[j]
            z[e, j] = gamma[j] * normal[e, j] + beta[j]


@disjoint
def normalize_backward(
    dz: Array, normal: Array, theta: Array, running: Array, target: Array
) -> None:
    """∂L/∂z before normalisation, in place of that after it; γ's and β's gradients to target."""
    examples, real, gamma = dz.shape[0], dz.dtype.type, theta[-2]
    deviation, d_gamma, d_beta = running[2], running[4], running[5]
    for j in range(len(gamma)):
        d_gamma[j] = d_beta[j] = 0
    for e in range(examples):
        for j in range(len(gamma)):
            d_gamma[j] += dz[e, j] * normal[e, j]
            d_beta[j] += dz[e, j]
    for e in range(examples):
        for j in range(len(gamma)):
            mean = (d_beta[j] + normal[e, j] * d_gamma[j]) / real(examples)
            dz[e, j] = gamma[j] / deviation[j] * (dz[e, j] - mean)
    for j in range(len(gamma)):
        target[-2, j] += d_gamma[j]
        target[-1, j] += d_beta[j]


@disjoint
def adam(
    theta: Array, gradient: Array, mean: Array, square: Array, how: Adam, rate: float, t: int
) -> None:
    """`torch.optim.Adam` or AdamW: update t, counted from 1. The gradient becomes 0."""
    real = theta.dtype.type
    l2 = real(0 if how.decoupled else how.weight_decay)
    keep = real(1 - rate * how.weight_decay if how.decoupled else 1)
    step, unbias = real(rate / (1 - 0.9 ** float(t))), real(1 / np.sqrt(1 - 0.999 ** float(t)))
    to_mean, to_square, epsilon = real(1 - 0.9), real(1 - 0.999), real(1e-8)
    for j in range(len(theta)):
        g = gradient[j] + l2 * theta[j]
        mean[j] += to_mean * (g - mean[j])
        square[j] += to_square * (g * g - square[j])
        theta[j] = keep * theta[j] - step * mean[j] / (unbias * np.sqrt(square[j]) + epsilon)
        gradient[j] = 0


@disjoint
def sgd(theta: Array, gradient: Array, velocity: Array, how: Sgd, rate: float) -> None:
    """`torch.optim.SGD`: W ← W − learning_rate · velocity. The gradient becomes 0."""
    real = theta.dtype.type
    decay, momentum, step = real(how.weight_decay), real(how.momentum), real(rate)
    for j in range(len(theta)):
        g = gradient[j] + decay * theta[j]
        gradient[j] = 0
        if momentum != 0:
            velocity[j] = momentum * velocity[j] + g
            g = g + momentum * velocity[j] if how.nesterov else velocity[j]
        theta[j] -= step * g


@inlined
def forward_pass(layers: Layers, norms: Norms, examples: int) -> None:
    """Steps 2 and 3, layer after layer. The last layer's z are the logits."""
    for k in range(len(layers)):
        layer = layers[k]
        places, theta, z = layer.places, layer.theta, layer.z
        for e in range(examples):
            weighted_sum(places[0, e], places[-1, e], layer.inputs, layer.values, theta, z[e])
        if k == len(layers) - 1:
            break
        if norms is not None:
            normalize(z[:examples], norms[k].normal, theta, norms[k].running)
        after = layers[k + 1]
        for e in range(examples):
            after.places[1, e] = relu(z[e], after.places[0, e] + 1, after.inputs, after.values)


@inlined
def backward_pass(layers: Layers, norms: Norms, examples: int) -> None:
    """Step 6, from the last layer's ∂L/∂z: add ∂L/∂θ of each layer to its gradient."""
    for k in range(len(layers) - 1, -1, -1):
        layer, before = layers[k], layers[k - 1]
        places, inputs, values, dz = layer.places, layer.inputs, layer.values, layer.z
        if k > 0:
            for e in range(examples):
                backward(places[0, e], places[1, e], inputs, layer.theta, dz[e], before.z[e])
        for band in range(len(places) - 1):
            for e in range(examples):
                begin, end = places[band, e], places[band + 1, e]
                add_gradient(begin, end, inputs, values, dz[e], layer.gradient)
        if norms is not None and k > 0:
            norm, dz = norms[k - 1], before.z[:examples]
            normalize_backward(dz, norm.normal, before.theta, norm.running, before.gradient)


def make_updates(
    layers: Layers,
    norms: Norms,
    flat: Array,
    sgd_settings: Sgd | None,
    adam_settings: Adam | None,
    places: Array,
    labels: Array,
    logits: Array,
    learning_rates: Array,
    size: int,
    t: int,
) -> None:
    """Step 8 on N examples: for each batch: forward pass, loss, backward pass, update.

    `flat` (4, parameters) has all layers' θ, their gradients, which are 0 between updates, and two
    moments, which the optimizer keeps. One of the optimizers' settings is None: Numba leaves its
    code out. If both are, each example's part of plain gradient descent is added directly to the
    weights: `Layer.gradient` is θ itself, and all gradients are multiplied by −learning_rate. This
    is for small batches, since each addition rounds, and not for batch norm, which needs the
    gradients apart from the weights.

    `places` (1 + BANDS, N) says where the bands of each example's inputs of layer 1 begin and end.
    The labels are (N,), the logits (N, C), and are written. Each batch has a learning rate and
    `size` examples; the last one may have fewer. It is taken in pieces for which the layers have
    room: with batch norm that must be the whole batch. `t` updates were made before.
    """
    room = len(layers[-1].z)
    for batch in range(len(learning_rates)):
        start, end, rate = batch * size, min((batch + 1) * size, len(labels)), learning_rates[batch]
        factor = -rate if sgd_settings is None and adam_settings is None else 1.0
        for first in range(start, end, room):
            examples = min(room, end - first)
            for band in range(BANDS + 1):
                for e in range(examples):
                    layers[0].places[band, e] = places[band, first + e]
            forward_pass(layers, norms, examples)
            for e in range(examples):
                z, label = layers[-1].z[e], labels[first + e]
                loss_gradient(z, logits[first + e], label, factor / (end - start))
            backward_pass(layers, norms, examples)
        if adam_settings is not None:
            adam(flat[0], flat[1], flat[2], flat[3], adam_settings, rate, t + batch + 1)
        elif sgd_settings is not None:
            sgd(flat[0], flat[1], flat[2], sgd_settings, rate)

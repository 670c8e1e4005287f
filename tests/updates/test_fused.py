import pytest
import torch
from torch import Tensor, nn

from mnist_mlp.steps import train as train_module
from mnist_mlp.steps.backprop import chain_rule
from mnist_mlp.steps.data import Dataset, Split, epoch_order, load_dataset
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.train import TorchUpdater, Updater
from mnist_mlp.updates import fused as updates_module
from mnist_mlp.updates.fused import FusedUpdater
from mnist_mlp.updates.graphed import GraphedUpdater

LAYER_SIZES = [(784, 128, 64, 10), (784, 10), (784, 30, 20, 20, 10)]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def made_by(
    kind: type[Updater], model: nn.Sequential, rate: float, train: Split, batch_size: int
) -> Updater:
    if kind is FusedUpdater:
        return FusedUpdater(model, train, batch_size)
    # A graph's learning rate is a tensor; with one, PyTorch's formula rounds as without.
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(rate), fused=True)
    return kind(model, optimizer, chain_rule(model), train, batch_size)  # type: ignore[call-arg]


def trained(
    kind: type[Updater],
    data: Dataset,
    batch_size: int,
    sizes: tuple[int, ...] = LAYER_SIZES[0],
    epochs: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[Tensor], Tensor]:
    """The weights after some epochs, and the last one's logits."""
    model = build_mlp(sizes, seed=0).to(dtype)
    rate = 0.1 if batch_size > 10 else 0.003  # small, or a rounding grows from update to update
    updater = made_by(kind, model, rate, data.train, batch_size)
    examples = len(data.train.labels)
    logits = torch.zeros(examples, 10, dtype=dtype)
    for epoch in range(1, epochs + 1):
        rates = [rate / (1 + k) ** 0.1 for k in range(-(-examples // batch_size))]
        made = list(updater.run_epoch(epoch, epoch_order(examples, 0, epoch), rates, 0, logits))
        assert made == list(range(len(rates)))
    return [p.detach() for p in updater.network().parameters()], logits


@pytest.mark.parametrize("sizes", LAYER_SIZES)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 500, 2000])
def test_fused_updates_are_the_chain_rule_and_sgd_to_rounding(
    sizes: tuple[int, ...], batch_size: int, digits: Dataset
) -> None:
    fused, fused_logits = trained(FusedUpdater, digits, batch_size, sizes)
    plain, logits = trained(TorchUpdater, digits, batch_size, sizes)
    initial = build_mlp(sizes, seed=0).parameters()
    for ours, theirs, before in zip(fused, plain, initial, strict=True):
        moved = (theirs - before).norm()
        assert (ours - theirs).norm() <= 1e-4 * moved + 1e-6 * theirs.norm()
    assert (fused_logits - logits).abs().max() <= 1e-3


def test_in_float64_they_are_the_same_to_13_digits_over_whole_epochs(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no rounding tips a ReLU over, which in float32 happens now and then."""
    monkeypatch.setattr(train_module, "to_images", lambda pixels: pixels.double() / 255)
    for batch_size in (50, 128):
        fused, fused_logits = trained(
            FusedUpdater, digits, batch_size, epochs=3, dtype=torch.float64
        )
        plain, logits = trained(TorchUpdater, digits, batch_size, epochs=3, dtype=torch.float64)
        for ours, theirs in zip([*fused, fused_logits], [*plain, logits], strict=True):
            assert (ours - theirs).abs().max() <= 1e-13 * theirs.abs().max()


def test_a_pixel_is_left_out_only_where_it_is_dark_in_the_whole_batch(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rarest pixel, lit in one example, and an example that is all dark."""
    pixels = torch.zeros_like(digits.train.pixels[:60])
    pixels[:, 300:320] = digits.train.pixels[:60, 300:320]
    pixels[41, 0] = 255
    pixels[17] = 0
    data = digits._replace(train=Split(pixels, digits.train.labels[:60]))
    widths = []
    real = updates_module._Batch.update

    def note(self: object, x: Tensor, *rest: object) -> None:
        widths.append(x.shape[1])
        real(self, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(updates_module._Batch, "update", note)
    for batch_size in (1, 20):
        fused, _ = trained(FusedUpdater, data, batch_size, epochs=2)
        plain, _ = trained(TorchUpdater, data, batch_size, epochs=2)
        assert torch.allclose(fused[0], plain[0], atol=1e-6)
        assert (fused[0][:, 0] != build_mlp(seed=0).get_parameter("layer1.weight")[:, 0]).any()
    assert min(widths) < 25 < 784 < max(widths) == 785


@pytest.mark.parametrize("kind", [TorchUpdater, FusedUpdater, GraphedUpdater])
@pytest.mark.parametrize("batch_size", [1, 50])
def test_an_epoch_gone_on_with_is_bit_for_bit_the_same(
    kind: type[Updater], batch_size: int, digits: Dataset
) -> None:
    order, rates = epoch_order(1437, 0, 1), [0.05] * -(-1437 // batch_size)
    whole, logits = None, torch.zeros(1437, 10)
    for stops in ([], [3], [1, 2, 20]):
        model = build_mlp(seed=0)
        done = 0
        for stop in [*stops, len(rates)]:
            again = build_mlp(seed=1)
            again.load_state_dict(model.state_dict())
            updater = made_by(kind, again, 0.05, digits.train, batch_size)
            made = updater.run_epoch(1, order, rates, done, logits)
            while done < stop:
                assert next(made) == done
                done += 1
            model = updater.network()
        weights = [p.detach() for p in model.parameters()]
        whole = whole or weights
        assert all(torch.equal(a, b) for a, b in zip(weights, whole, strict=True))


def test_fused_updates_refuse_what_they_are_not_for(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="Linear and ReLU"):
        FusedUpdater(build_mlp(activation="tanh"), digits.train, 64)
    images = Split(digits.train.images, digits.train.labels)
    with pytest.raises(ValueError, match="uint8"):
        FusedUpdater(build_mlp(), images, 64)

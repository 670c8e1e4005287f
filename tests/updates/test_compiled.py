"""The compiled loop against steps/: the same training, to rounding."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_mlp.errors import DivergedError
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, Split, epoch_order, load_dataset, to_images
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, TorchUpdater, Updater, train
from mnist_mlp.updates import compiled as compiled_module
from mnist_mlp.updates.compiled import CompiledUpdater
from mnist_mlp.updates.deformation import Deformation, DeformingUpdater, draw
from mnist_mlp.updates.graphed import GraphedUpdater
from mnist_mlp.updates.loop import BANDS, Adam, Sgd
from mnist_mlp.updates.machine_code import CachedFunction
from tests.conftest import REPOSITORY

LAYER_SIZES = [(784, 128, 64, 10), (784, 10), (784, 20, 33, 120, 12, 10)]
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9},
    {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    {"name": "sgd", "weight_decay": 0.01},
    {"name": "adam", "weight_decay": 0.01},
    {"name": "adamw", "weight_decay": 0.1},
]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def exact(digits: Dataset) -> Dataset:
    """The same in float64."""
    train, test = (Split(s.pixels.double() / 255, s.labels) for s in (digits.train, digits.test))
    return digits._replace(train=train, test=test)


def compiled(
    model: nn.Sequential, train: Split, batch_size: int, how: dict[str, Any], **options: Any
) -> CompiledUpdater:
    settings = {key: value for key, value in how.items() if key != "name"}
    adam = Adam(how["name"] == "adamw", settings.get("weight_decay", 0.0))
    optimizer = Sgd(**settings) if how["name"] == "sgd" else adam
    return CompiledUpdater(model, optimizer, train, batch_size, **options)


def usual(
    model: nn.Sequential, train: Split, batch_size: int, how: dict[str, Any], **options: Any
) -> TorchUpdater:
    optimizer = build_optimizer(model.parameters(), learning_rate=0.1, **how)
    return DeformingUpdater(model, optimizer, autograd(model), train, batch_size, **options)


def trained(
    updater: Updater, data: Dataset, rate: float, epochs: int = 2
) -> tuple[list[EpochResult], list[Tensor]]:
    """The rows, and the weights of the network for use."""
    rates = (rate / (1 + k) ** 0.1 for k in range(1_000_000))
    events = train(updater, data, epochs=epochs, learning_rates=rates)
    rows = [event for event in events if isinstance(event, EpochResult)]
    return rows, [p.detach() for p in updater.network().parameters()]


@pytest.mark.parametrize("sizes", LAYER_SIZES)
@pytest.mark.parametrize("how", OPTIMIZERS, ids=lambda how: "-".join(map(str, how.values())))
@pytest.mark.parametrize("batch_norm", [False, True])
def test_in_float64_whole_epochs_are_those_of_steps_to_12_digits(
    batch_norm: bool, how: dict[str, Any], sizes: tuple[int, ...], exact: Dataset
) -> None:
    rate = 0.01 if how["name"] == "sgd" else 0.002
    torch.set_default_dtype(torch.float64)
    try:
        for batch_size in (16, 100, 2000):
            ends = []
            for make in (compiled, usual):
                model = build_mlp(sizes, seed=0, batch_norm=batch_norm)
                ends.append(trained(make(model, exact.train, batch_size, how), exact, rate))
            (rows, weights), (usual_rows, usual_weights) = ends
            # Before batch norm a bias has no effect, its gradient is a rounding error, and Adam
            # makes whole steps of it, which cancel to fewer digits.
            adam_of_noise = batch_norm and how["name"] != "sgd"
            for ours, theirs in zip(rows, usual_rows, strict=True):
                rel = 1e-11 if adam_of_noise else 1e-12
                assert ours.train_loss == pytest.approx(theirs.train_loss, rel=rel)
                assert ours.test_loss == pytest.approx(theirs.test_loss, rel=rel)
                assert ours.train_accuracy == theirs.train_accuracy
            within = 1e-8 if adam_of_noise else 1e-12
            for mine, other in zip(weights, usual_weights, strict=True):
                assert (mine - other).abs().max() <= within * other.abs().max()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("sizes", LAYER_SIZES)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 500, 2000])
def test_in_float32_they_are_the_chain_rule_and_sgd_to_rounding(
    sizes: tuple[int, ...], batch_size: int, digits: Dataset
) -> None:
    rate = 0.1 if batch_size > 10 else 0.003  # small, or a rounding grows from update to update
    model, other = build_mlp(sizes, seed=0), build_mlp(sizes, seed=0)
    _, weights = trained(compiled(model, digits.train, batch_size, {"name": "sgd"}), digits, rate)
    optimizer = build_optimizer(other.parameters())
    updater = TorchUpdater(other, optimizer, chain_rule(other), digits.train, batch_size)
    _, usual_weights = trained(updater, digits, rate)
    initial = build_mlp(sizes, seed=0).parameters()
    for ours, theirs, before in zip(weights, usual_weights, initial, strict=True):
        moved = (theirs - before).norm()
        assert (ours - theirs).norm() <= 2e-4 * moved + 1e-6 * theirs.norm()


def test_a_pixel_that_is_rarely_lit_and_an_image_that_is_all_dark(digits: Dataset) -> None:
    pixels = torch.zeros_like(digits.train.pixels[:200])
    pixels[:, 300:320] = digits.train.pixels[:200, 300:320]
    pixels[41, 0] = pixels[41, 783] = 255
    pixels[17] = 0
    data = digits._replace(train=Split(pixels, digits.train.labels[:200]))
    for batch_size in (1, compiled_module.PIECE + 1):
        ends = []
        for make in (compiled, usual):
            model = build_mlp(seed=0)
            ends.append(trained(make(model, data.train, batch_size, {"name": "sgd"}), data, 0.1)[1])
        initial = build_mlp(seed=0).get_parameter("layer1.weight")
        assert torch.allclose(ends[0][0], ends[1][0], atol=1e-6)
        changed = (ends[0][0] != initial).any(dim=0).nonzero().flatten().tolist()
        assert {0, 783} < set(changed)
        assert set(changed) <= {0, 783, *range(300, 320)}


@pytest.mark.parametrize("elastic", [0.0, 0.5])
def test_training_on_deformed_images_is_that_of_pytorch(elastic: float, digits: Dataset) -> None:
    deformation = Deformation(rotation=15, scale=0.15, shear=0.2, translation=2, elastic=elastic)
    options = {"deformation": deformation, "seed": 3}
    ends = []
    for make in (compiled, usual):
        model = build_mlp(seed=0)
        updater = make(model, digits.train, 100, {"name": "adamw"}, **options)
        ends.append(trained(updater, digits, 0.002)[0])
    for ours, theirs in zip(*ends, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)


@pytest.mark.parametrize("elastic", [0.0, 3.0])
def test_images_are_deformed_as_pytorch_does_it(elastic: float, digits: Dataset) -> None:
    """Moved partly out of the frame as well, each by the map and the grid of its own row.

    Written out here: the affine map of (x, y, 1), then the interpolated grid, in pixels of 2/28.
    """
    deformation = Deformation(180, scale=0.5, shear=1, translation=14, elastic=elastic)
    updater = compiled(
        build_mlp(seed=0), digits.train, 100, {"name": "sgd"}, deformation=deformation
    )
    updater.order, drawn = torch.randperm(1437), draw(deformation, 1437, 0, epoch=1)
    updater.coefficients = drawn
    places, inputs, values = updater._lists(slice(3, 7))  # two blocks
    for k, (starts, ends) in enumerate(pairwise([places[0] + 1, *places[1:]])):  # after input 0
        for start, end in zip(starts, ends, strict=True):
            assert set((inputs[start:end].astype(int) - 1) // (784 // BANDS)) <= {k}
    ours = torch.zeros(400, 784)
    for row, begin, end in zip(ours, places[0] + 1, places[-1], strict=True):
        row[inputs[begin:end].astype(int) - 1] = torch.from_numpy(values[begin:end])
    rows = slice(300, 700)
    x = ((torch.arange(28) + 0.5) / 14 - 1).expand(28, 28)
    points = drawn[rows, :, :3] @ torch.stack([x, x.T, torch.ones(28, 28)]).view(3, 784)
    points = points.view(400, 2, 28, 28)
    if elastic:
        each, size = torch.eye(4).view(4, 1, 4, 1), (28, 1)
        weights = F.interpolate(each, size, mode="bicubic", align_corners=True).view(4, 28)
        points = points + weights.T @ drawn[rows, :, 3:].view(400, 2, 4, 4) @ weights / 14
    images = to_images(digits.train.pixels[updater.order[rows]]).view(400, 1, 28, 28)
    theirs = F.grid_sample(images, points.permute(0, 2, 3, 1), align_corners=False).view(400, 784)
    assert (theirs > 0).any(dim=1).float().mean() > 0.5
    assert (ours - theirs).abs().max() < 2e-5


def test_images_are_deformed_on_one_core(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has its own number of PyTorch's threads: by default that of all cores."""
    threads, coefficients = [], Deformation.coefficients

    def watched(deformation: Deformation, noise: Tensor) -> Tensor:
        threads.append(torch.get_num_threads())
        return coefficients(deformation, noise)

    monkeypatch.setattr(Deformation, "coefficients", watched)
    deformation = Deformation(rotation=8.75)  # nobody else's: what was drawn is kept
    updater = compiled(
        build_mlp(seed=0), digits.train, 100, {"name": "sgd"}, deformation=deformation
    )
    torch.set_num_threads(3)
    trained(updater, digits, 0.01)
    assert set(threads) == {1}


@pytest.mark.parametrize("kind", ["torch", "compiled", "deformed", "graphed"])
@pytest.mark.parametrize("batch_size", [1, compiled_module.PIECE + 6])
def test_an_epoch_gone_on_with_is_bit_for_bit_the_same(
    kind: str, batch_size: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_module, "WORK_PER_CALL", 1)
    order, rates = epoch_order(1437, 0, 1), [0.05] * -(-1437 // batch_size)

    def made_by(model: nn.Sequential) -> Updater:
        if kind in ("compiled", "deformed"):
            deformation = Deformation(rotation=5) if kind == "deformed" else None
            options = {"deformation": deformation}
            return compiled(model, digits.train, batch_size, {"name": "sgd"}, **options)
        # A graph's learning rate is a tensor; with one, PyTorch's formula rounds as without.
        optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.05), fused=True)
        updaters = {"torch": TorchUpdater, "graphed": GraphedUpdater}
        return updaters[kind](model, optimizer, chain_rule(model), digits.train, batch_size)

    whole, logits = None, torch.zeros(1437, 10)
    for stops in ([], [3], [1, 2, 20]):
        model = build_mlp(seed=0)
        done = 0
        for stop in [*stops, len(rates)]:
            again = build_mlp(seed=1)
            again.load_state_dict(model.state_dict())
            updater = made_by(again)
            made = updater.run_epoch(1, order, rates, done, logits)
            while done < stop:
                assert next(made) == done
                done += 1
            model = updater.network()
            assert not list(updater.run_epoch(1, order, rates, len(rates), logits))
        weights = [p.detach() for p in model.parameters()]
        whole = whole or weights
        assert all(torch.equal(a, b) for a, b in zip(weights, whole, strict=True))


@pytest.mark.parametrize("deformation", [None, Deformation(rotation=9, elastic=0.3)])
def test_how_many_updates_one_call_makes_changes_no_bit(
    deformation: Deformation | None, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, usual = [], compiled_module.WORK_PER_CALL
    for work in (usual, 1):
        monkeypatch.setattr(compiled_module, "WORK_PER_CALL", work)
        model, how = build_mlp(seed=0), {"name": "adamw"}
        updater = compiled(model, digits.train, 7, how, deformation=deformation)
        ends.append(trained(updater, digits, 0.001)[1])
        assert (updater.batches_per_call == 1) == (work == 1)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("sizes", [LAYER_SIZES[0], (784, 20, 17, 10)])
@pytest.mark.parametrize("how", [{"name": "sgd"}, {"name": "sgd", "momentum": 0.9}])
def test_the_update_at_which_training_diverges_is_the_one_of_steps(
    how: dict[str, Any], sizes: tuple[int, ...], digits: Dataset
) -> None:
    """Padded outputs become nan too: their lists have room."""
    messages = []
    for make in (compiled, usual):
        updater = make(build_mlp(sizes, seed=0), digits.train, 10, how)
        if isinstance(updater, CompiledUpdater):
            for layer, following in pairwise(updater.layers):
                room = layer.z.size + len(layer.z)  # input 0 as well
                assert len(following.inputs) == room == len(following.values)
        with pytest.raises(DivergedError) as diverged:
            list(train(updater, digits, epochs=3, learning_rates=repeat(1e30)))
        messages.append(str(diverged.value))
    assert messages[0] == messages[1]
    assert "update" in messages[0]


def test_moments_that_decay_do_not_become_denormal_numbers(digits: Dataset) -> None:
    """A CPU takes a hundred times as long for these."""
    pixels = digits.train.pixels.clone()
    pixels[:, 0] = 0
    pixels[epoch_order(1437, 0, 1)[0], 0] = 255  # lit in the first update only
    data = digits._replace(train=Split(pixels, digits.train.labels))
    model = build_mlp(seed=0)
    updater = compiled(model, data.train, 1, {"name": "adam"})
    first = updater.state[model.get_parameter("layer1.weight")]["exp_avg"][:, 0]
    trained(updater, data, 1e-4, epochs=1)
    assert not ((first != 0) & (first.abs() < torch.finfo().tiny)).any()
    assert (first == 0).all()  # 0.9 to the power of 1436, times less than 1
    tiny = torch.tensor(1e-40)
    assert tiny * 0.5 != 0  # what comes after is computed as ever


def test_an_interruption_leaves_denormal_numbers_as_they_were(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    updater = compiled(build_mlp(seed=0), digits.train, 50, {"name": "sgd"})
    monkeypatch.setattr(compiled_module._MAKE_UPDATES, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(updater.run_epoch(1, torch.arange(1437), [0.1] * 29, 0, torch.zeros(1437, 10)))
    assert torch.tensor(1e-40) * 0.5 != 0


def test_the_parameters_become_views_and_are_put_back_by_load_state_dict(digits: Dataset) -> None:
    ends = []
    for seed in (0, 1):
        model, other = build_mlp(seed=seed), build_mlp(seed=1)
        updater = compiled(model, digits.train, 50, {"name": "adamw"})
        for ours, theirs in zip(model.parameters(), build_mlp(seed=seed).parameters(), strict=True):
            assert torch.equal(ours, theirs)
        model.load_state_dict(other.state_dict())
        ends.append(trained(updater, digits, 0.001, epochs=1)[1])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


RELU = """
import numpy as np
from mnist_mlp.updates import loop, machine_code
relu = machine_code.CachedFunction(loop.relu.py_func)
inputs, values = np.zeros(9, np.uint16), np.zeros(9, np.float32)
end = relu.prepare(np.arange(-3, 5, dtype=np.float32), 0, inputs, values)
print(float(values[:end].sum()), sum(relu.call.stats.cache_hits.values()))
"""
TRAIN = """
import torch
from mnist_mlp.steps.data import Split
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.updates import compiled
from mnist_mlp.updates.deformation import Deformation
from mnist_mlp.updates.loop import Sgd
data = Split(torch.full((9, 784), 9, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64))
deformed = {"deformation": Deformation(rotation=9, elastic=0.5)}
updater = compiled.CompiledUpdater(build_mlp(seed=0), Sgd(), data, 3, **deformed)
list(updater.run_epoch(1, torch.arange(9), [0.1] * 3, 0, torch.zeros(9, 10)))
functions = compiled._MAKE_UPDATES, compiled._LIST_LIT
hits = min(sum(function.call.stats.cache_hits.values()) for function in functions)
print(float(updater.network()[1].weight.detach().sum()), hits)
"""


def start(copy: Path, script: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-B", "-c", f"import gc; gc.disable()\n{script}\ngc.freeze()"],
        env={**os.environ, "PYTHONPATH": str(copy)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> tuple[float, bool]:
    """A sum of results, and whether the machine code came from the disk."""
    out, err = process.communicate(timeout=120)
    assert not err
    total, hits = out.split()
    return float(total), hits != "0"


FEATURES = """
from numba.core import codegen, registry
from mnist_mlp.updates.machine_code import processor
print(processor(), codegen.get_host_cpu_features())
print(registry.cpu_target.target_context.codegen().magic_tuple()[2])
"""


def test_the_widest_registers_are_used_unless_numba_was_told_what_to_use() -> None:
    names = set()
    for environment in ({}, {"NUMBA_CPU_FEATURES": ""}, {"NUMBA_CPU_NAME": "generic"}):
        first, used = start(REPOSITORY, FEATURES, **environment).communicate()[0].splitlines()
        name, host = first.split()
        wide = f"{host},-prefer-256-bit" if "+avx512f" in host else host
        assert used == ("" if environment else wide)
        names.add(name)
    assert len(names) == 3


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    copied = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "mnist_mlp", copied / "mnist_mlp", ignore=ignore)
    return copied


def test_the_machine_code_of_all_is_kept() -> None:
    for function in (compiled_module._MAKE_UPDATES, compiled_module._LIST_LIT):
        assert isinstance(function, CachedFunction)
        assert function.call.stats.cache_path


@pytest.mark.parametrize("script", [RELU, pytest.param(TRAIN, marks=pytest.mark.long)])
def test_machine_code_is_kept_and_made_anew_where_it_is_damaged(script: str, package: Path) -> None:
    """Two first starts at once, a machine of another kind, a damaged file of each sort."""
    both = [start(package, script) for _ in range(2)]
    (total, _), (other, _) = (result(process) for process in both)
    assert total == other
    assert result(start(package, script)) == (total, True)
    other_kind = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    for kept_before in (False, True):
        rounded_otherwise, hit = result(start(package, script, **other_kind))
        assert rounded_otherwise == pytest.approx(total)
        assert hit == kept_before
    assert result(start(package, script)) == (total, True)
    kept = list((package / "mnist_mlp/updates/__pycache__").glob("*.nb?"))
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    for path in kept:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    assert result(start(package, script)) == (total, False)
    assert result(start(package, script))[0] == total
    assert result(start(package, script)) == (total, True)


@pytest.mark.parametrize("script", [RELU, pytest.param(TRAIN, marks=pytest.mark.long)])
def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    script: str, package: Path, tmp_path: Path
) -> None:
    """A read-only install and no cache folder: a file stands where each folder would be made."""
    (package / "mnist_mlp/updates/__pycache__").write_text("")
    nowhere = tmp_path / "home"
    nowhere.write_text("")
    places = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere)}
    total, kept = result(start(package, script, **places))
    assert not kept
    home = tmp_path / "elsewhere"
    home.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    assert result(start(package, script, **places)) == (total, False)
    # Kept in the user's cache folder.
    assert result(start(package, script, **places)) == (total, True)

import os

import pytest
import torch

from mnist_mlp.config import load_config
from mnist_mlp.errors import DeviceError
from mnist_mlp.runs.environment import resolve_device, threads_of
from mnist_mlp.runs.training import RunStart, run_events
from tests.runs.test_training import digits


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_are_those_asked_for_and_put_back(threads: str) -> None:
    before = torch.get_num_threads()
    events = run_events(digits(f"threads={threads}"), "here")
    start = next(events)
    assert isinstance(start, RunStart)
    assert start.environment["threads"] == int(threads) == torch.get_num_threads()
    events.close()
    assert torch.get_num_threads() == before


def test_the_rule_for_threads() -> None:
    cores = min(2, len(os.sched_getaffinity(0)))
    for overrides, threads in [
        (["train.batch_size=255"], 1),
        (["train.batch_size=256"], cores),
        (["threads=3"], 3),
    ]:
        assert threads_of(digits(*overrides)) == threads
    compiled = ["train.batch_size=512", "model.layer_sizes=[784,128,64,10]"]
    assert threads_of(load_config("lesson", compiled, environment={})) == 1


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == resolve_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="finds no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu").type == "cpu"

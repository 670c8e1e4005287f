import pytest

from mnist_mlp.updates.ranks import local_processes, local_rank, processes, rank

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 0, 1, 0)),
        (TORCHRUN, (8, 5, 4, 1)),
        (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}, (1, 0, 1, 0)),
        # A cluster's job may carry sizes without being one of torchrun's processes.
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (1, 0, 1, 0)),
    ],
)
def test_torchruns_words(
    environment: dict[str, str], expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (processes(), rank(), local_processes(), local_rank()) == expected

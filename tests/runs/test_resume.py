"""A run that was stopped, killed or damaged goes on exactly where it was."""

import fcntl
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from mnist_mlp.config import Config, load_config
from mnist_mlp.errors import CheckpointError, DataError, RunInUseError, StoppedError, UsageError
from mnist_mlp.runs import record
from mnist_mlp.runs import training as run_module
from mnist_mlp.runs.checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from mnist_mlp.runs.directory import list_checkpoints
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.runs.listing import summarise
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.steps import train
from mnist_mlp.steps.data import Dataset, Split, epoch_order
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.views.notebook import train_model
from scripts.forked import Mark
from tests.conftest import Outcome, Program, program

SAMPLE = Path(__file__).parent.parent / "samples" / "7_plain.png"


def digits(*overrides: str) -> Config:
    return load_config("digits", ["train.epochs=3", "train.batch_size=100", *overrides])


def rows(run_dir: Path) -> list[dict[str, float]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


def resumed(config: Config, run_dir: str) -> RunResult:
    *_, result = run_events(config, run_dir, resume=True)
    assert isinstance(result, RunResult)
    return result


def stopped_after(asked: int, config: Config, run_dir: str, resume: bool = False) -> None:
    """Run until it has asked so often whether to stop: once for each event."""
    count = 0

    def stop() -> int | None:
        nonlocal count
        count += 1
        return signal.SIGTERM if count > asked else None

    with pytest.raises(StoppedError, match=rf"--resume {run_dir}") as error:
        list(run_events(config, run_dir, resume=resume, stop=stop))
    assert error.value.exit_code == 143


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    "amounts",
    [(), ("augment.rotation=9", "augment.elastic=0.3", "augment.fade_fraction=0.9")],
)
def test_what_is_gone_in_the_end_is_resumed_too(
    amounts: tuple[str, ...], batch_norm: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    config = digits(
        f"device={device}",
        *amounts, f"model.batch_norm={str(batch_norm).lower()}", "optimizer.name=adamw",
        "optimizer.learning_rate=0.003", "data.validation=100",
    )  # fmt: skip
    whole = train_model(config, "whole")
    stopped_after(5, config, "parts")
    stopped_after(14, config, "parts", resume=True)
    stopped_after(3, config, "parts", resume=True)
    assert resumed(config, "parts").weights_sha256 == whole.weights_sha256
    assert rows(Path("parts")) == rows(Path("whole"))
    checkpoint = load_checkpoint("whole")
    assert weights_sha256(checkpoint.model) == whole.weights_sha256
    evaluation = evaluate_model(checkpoint.model, *load_config_dataset(config).test)
    assert evaluation.accuracy == whole.test_accuracy
    kinds = {name.split(".")[0] for name in checkpoint.training}
    assert kinds - {"optimizer"} == ({"model"} if batch_norm else set())
    names = [f"layer{k}.{kind}" for k in (1, 2, 3) for kind in ("weight", "bias")]
    assert list(checkpoint.model.state_dict()) == names


@pytest.mark.cuda
@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_may_change_its_device(
    optimizer: str, devices: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    how = f"optimizer.name={optimizer}", "optimizer.momentum=0.9", "optimizer.learning_rate=0.003"
    before, after = (digits(f"device={device}", *how) for device in devices)
    whole = train_model(before, "whole")
    stopped_after(14, before, "parts")
    assert resumed(after, "parts").train_loss == pytest.approx(whole.train_loss, rel=1e-4)


COMBINATIONS = [
    # By default every fourth: each optimizer with each backward pass, and each schedule.
    pytest.param(*parts, marks=[pytest.mark.long] if (i + j + k) % 4 else [])
    for (i, j, k), parts in zip(
        product(range(5), range(4), range(2)),
        product(
            ("sgd", "momentum", "nesterov", "adam", "adamw"),
            ("constant", "step", "cosine", "one_cycle"),
            ("chain_rule", "autograd"),
        ),
        strict=True,
    )
]


@pytest.mark.parametrize(("optimizer", "schedule", "backward"), COMBINATIONS)
def test_stopped_anywhere_and_resumed_is_bit_for_bit_the_same(
    optimizer: str, schedule: str, backward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    overrides = {
        "sgd": [],
        "momentum": ["optimizer.momentum=0.9"],
        "nesterov": ["optimizer.momentum=0.9", "optimizer.nesterov=true"],
        "adam": ["optimizer.name=adam"],
        "adamw": ["optimizer.name=adamw"],
    }[optimizer]
    config = digits(
        f"schedule.name={schedule}", "schedule.step_epochs=1", f"train.backward={backward}",
        "optimizer.learning_rate=0.01", "data.validation=137", *overrides,
    )  # fmt: skip
    whole = train_model(config, "whole")
    # An epoch is 13 updates: in the first epoch, at an epoch's last update, in a later epoch.
    stopped_after(random.Random(optimizer + schedule + backward).randrange(1, 13), config, "parts")
    stopped_after(13, config, "parts", resume=True)
    stopped_after(9, config, "parts", resume=True)
    result = resumed(config, "parts")
    assert result.weights_sha256 == whole.weights_sha256
    assert rows(Path("parts")) == rows(Path("whole"))
    assert (result.train_loss, result.updates) == (whole.train_loss, whole.updates)


def test_stopped_before_the_first_update_or_dry_there_is_nothing_to_go_on_with() -> None:
    for dry_run in (False, True):
        events = run_events(digits(), dry_run=dry_run, stop=lambda: signal.SIGINT)
        with pytest.raises(StoppedError, match=r"^stopped by SIGINT after update \d+$") as error:
            list(events)
        assert error.value.exit_code == 130
    assert list(Path().glob("runs/*/checkpoints/*")) == []


def test_a_finished_run_can_be_resumed_for_more_epochs() -> None:
    longer = train_model(digits("train.epochs=5"), "longer")
    short = train_model(digits(), "short")
    assert resumed(digits(), "short").weights_sha256 == short.weights_sha256
    assert resumed(digits("train.epochs=5"), "short").weights_sha256 == longer.weights_sha256
    assert rows(Path("short")) == rows(Path("longer"))


def test_a_run_without_a_checkpoint_starts_over() -> None:
    events = run_events(digits(), "here")
    next(events)
    next(events)
    events.close()
    assert resumed(digits(), "here").weights_sha256 == train_model(digits()).weights_sha256


def test_what_may_not_change_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    train_model(digits(), "run")
    for override, message in [
        ("optimizer.learning_rate=0.2", "optimizer.learning_rate: 0.1 in the run, 0.2 now"),
        ("seed=1", "seed: 0 in the run, 1 now"),
        ("train.epochs=2", "train.epochs: 2, but 3 are done or begun"),
    ]:
        with pytest.raises(UsageError, match=message):
            resumed(digits(override), "run")
    for what, *settings in (
        ("the cosine schedule", "schedule.name=cosine"),
        ("augment.fade_fraction", "augment.shear=0.1", "augment.fade_fraction=0.5"),
    ):
        train_model(digits(*settings), what)
        longer = digits(*settings, "train.epochs=4")
        with pytest.raises(UsageError, match=rf"epochs: 3 in the run, 4 now.*\({what} is shaped"):
            resumed(longer, what)


def test_an_epoch_that_has_begun_may_not_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    stopped_after(20, digits(), "run")  # in epoch 2
    assert [path.stem for path in list_checkpoints(Path("run"))][-1].startswith("epoch-001-update")
    with pytest.raises(UsageError, match=r"train\.epochs: 1, but 2 are done or begun"):
        resumed(digits("train.epochs=1"), "run")


def test_a_folder_that_is_no_run_is_left_alone() -> None:
    with pytest.raises(UsageError, match="nowhere: no such run"):
        resumed(digits(), "nowhere")
    Path("mine").mkdir()
    Path("mine/metrics.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="mine: holds files that are no run's"):
        resumed(digits(), "mine")
    assert [path.name for path in Path("mine").iterdir()] == ["metrics.jsonl"]
    assert Path("mine/metrics.jsonl").read_text() == "mine"


def test_other_surroundings_are_told(caplog: pytest.LogCaptureFixture) -> None:
    train_model(digits("threads=1"), "run")
    resumed(digits("threads=2", "train.epochs=4"), "run")
    assert caplog.messages == ["resuming, but not bit for bit: threads was 1, is 2"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = train_model(digits(), "run")
    newest = list_checkpoints(Path("run"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert resumed(digits(), "run").weights_sha256 == whole.weights_sha256
    assert "epoch-003.safetensors: damaged" in caplog.messages[0]
    assert load_checkpoint("run").epoch == 3
    for checkpoint in list_checkpoints(Path("run")):
        checkpoint.write_bytes(b"")
    with pytest.raises(CheckpointError, match="run: all its checkpoints are damaged"):
        resumed(digits(), "run")


def test_the_only_good_checkpoint_outlives_a_damaged_newer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    whole = train_model(digits("checkpoint.keep=2"), "run")
    newest = list_checkpoints(Path("run"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    damaged = newest.read_bytes()
    stopped_after(5, digits("checkpoint.keep=1"), "run", resume=True)
    assert [path.stem for path in list_checkpoints(Path("run"))] == ["epoch-002-update-36"]
    assert newest.with_name("epoch-003.safetensors.damaged").read_bytes() == damaged
    assert resumed(digits(), "run").weights_sha256 == whole.weights_sha256


WAVERING = (
    "train.epochs=5", "checkpoint.keep=1", "data.validation=200", "optimizer.learning_rate=0.9",
)  # fmt: skip


@pytest.mark.parametrize("every", [1, 4])
def test_the_best_by_validation_is_kept_and_found(every: int, run: Callable[..., Outcome]) -> None:
    train_model(digits(*WAVERING, f"checkpoint.every_epochs={every}"), "run")
    accuracies = {row["epoch"]: row["validation_accuracy"] for row in rows(Path("run"))[1:]}
    best = max(accuracies, key=lambda epoch: (accuracies[epoch], -epoch))
    assert best not in (1, 4, 5)  # or this test shows nothing
    kept = [path.stem for path in list_checkpoints(Path("run"))]
    assert kept == [f"epoch-{best:03d}", "epoch-005"]
    arguments = ("eval", "run", "--split", "validation", "--json")
    newest, at_best = (json.loads(run(*arguments, *more).out) for more in ((), ("--best",)))
    assert at_best["accuracy"] == accuracies[best] > newest["accuracy"] == accuracies[5]
    assert f"epoch-{best:03d}.safetensors" in run("trace", "run", "--best", "--quiet").err + (
        run("trace", "run", "--best").out
    )


def test_the_best_of_what_has_none_is_refused(run: Callable[..., Outcome]) -> None:
    train_model(digits(), "run")
    outcome = run("eval", "run", "--best")
    assert outcome.code == 4
    assert "train with data.validation" in outcome.err
    outcome = run("eval", "run/checkpoints/epoch-003.safetensors", "--best")
    assert outcome.code == 2
    assert "this is one file" in outcome.err


def test_other_data_are_refused_and_another_order_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train_model(digits(), "run")
    load = load_config_dataset

    def altered(config: Config) -> Dataset:
        data = load(config)
        labels = data.test.labels.clone()
        labels[0] = 9 - labels[0]
        return data._replace(test=Split(data.test.images, labels))

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_config_dataset", altered)
        with pytest.raises(DataError, match="digits: its test split is not the one"):
            resumed(digits("train.epochs=4"), "run")

    def reversed_order(examples: int, seed: int, epoch: int) -> torch.Tensor:
        return epoch_order(examples, seed, epoch).flip(0)

    monkeypatch.setattr(record, "epoch_order", reversed_order)
    resumed(digits("train.epochs=4"), "run")
    assert caplog.messages == [
        "resuming, but not bit for bit: PyTorch shuffles the examples differently"
    ]


def test_a_checkpoint_of_another_torch_is_read_and_resumed_from(
    run: Callable[..., Outcome],
) -> None:
    """Written by torch 2.13.0; 784-1-10 with Adam, to be small."""
    shutil.copytree(Path(__file__).parent / "torch-2.13", "run")
    evaluation = json.loads(run("eval", "run", "--json").out)
    written = rows(Path("run"))[1]
    assert evaluation["accuracy"] == written["test_accuracy"]
    assert evaluation["loss"] == pytest.approx(written["test_loss"], rel=1e-6)
    outcome = run("train", "--resume", "run", "train.epochs=2", "--json")
    assert outcome.code == 0
    assert f"torch was 2.13.0+cpu, is {torch.__version__}" in outcome.err
    assert json.loads(outcome.out)["updates"] == 180


def test_metrics_are_cut_to_the_resumed_position() -> None:
    train_model(digits(), "run")
    list_checkpoints(Path("run"))[-1].unlink()
    expected = rows(Path("run"))
    with Path("run/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "upd')
    resumed(digits(), "run")
    assert rows(Path("run")) == expected


def test_rows_before_a_torn_one_are_kept_and_the_first_is_needed() -> None:
    train_model(digits(), "run")
    path = Path("run/metrics.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:20], lines[3]]))
    result = resumed(digits("train.epochs=4"), "run")
    assert [row["epoch"] for row in rows(Path("run"))] == [0, 1, 3, 4]
    assert (summarise(Path("run")).epochs, summarise(Path("run")).finished) == (4, True)
    assert result.initial_loss == json.loads(lines[0])["train_loss"]
    path.unlink()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: its row of the untrained"):
        resumed(digits("train.epochs=5"), "run")


@pytest.mark.parametrize(
    ("losses", "correct"), [(2 * 479, 0), (3 * 479, 0), (2 * 479, float("inf"))]
)
def test_a_forged_position_is_refused(losses: int, correct: float) -> None:
    """One that is the whole epoch, and a count that is none; the first can be resumed from."""
    config = digits("train.batch_size=479", "train.epochs=1", "data.validation=0")
    train_model(config, "run")
    checkpoint = load_checkpoint("run")
    forged = replace(
        checkpoint,
        path=Path("run/checkpoints/epoch-000-update-2.safetensors"),
        epoch=0,
        update=losses // 479,
        training=checkpoint.training | {"losses": torch.ones(losses)},
        progress={"correct": correct, "seconds": 1.0},
    )
    checkpoint.path.unlink()
    save_checkpoint(forged)
    refused = pytest.raises(CheckpointError, match="cannot be resumed from")
    with nullcontext() if (losses, correct) == (2 * 479, 0) else refused:
        assert resumed(config, "run").updates == 3


def test_half_written_files_are_swept_and_those_of_others_stay() -> None:
    train_model(digits(), "run")
    ours = [
        ".config.yaml.0123abcd.tmp",
        ".metrics.jsonl.0123abcd.tmp",
        "checkpoints/.epoch-004.safetensors.0123abcd.tmp",
        "checkpoints/.epoch-004-update-58.safetensors.0123abcd.tmp",
    ]
    others = [".notes.tmp", ".notes.0123abcd.tmp", "checkpoints/.epoch-004.safetensors.x.tmp"]
    for name in ours + others:
        Path("run", name).touch()
    resumed(digits(), "run")
    assert {str(path.relative_to("run")) for path in Path("run").rglob("*.tmp")} == set(others)


@pytest.mark.parametrize("validation", ["0", "137"])
@pytest.mark.parametrize("test_each_epoch", ["false", "true"])
@pytest.mark.parametrize(
    ("state", "epochs"),
    [("begun", 3), ("within", 3), ("done", 3), ("done", 5), ("lost", 2), ("lost", 3)],
)
def test_every_state_can_be_resumed_and_ends_as_any_run(
    state: str, epochs: int, test_each_epoch: str, validation: str, run: Callable[..., Outcome]
) -> None:
    """Just begun, within an epoch, done, and done but with the last checkpoint lost."""
    overrides = (f"train.test_each_epoch={test_each_epoch}", f"data.validation={validation}")
    if state == "begun":
        events = run_events(digits(*overrides), "run")
        for _ in range(2):
            next(events)
        events.close()
    elif state == "within":
        stopped_after(2, digits(*overrides, "checkpoint.every_epochs=2"), "run")
    else:
        train_model(digits(*overrides), "run")
    if state == "lost":
        Path("run/checkpoints/epoch-003.safetensors").unlink()
    outcome = run("train", "--resume", "run", f"train.epochs={epochs}", "--json")
    assert outcome.code == 0, outcome
    result = json.loads(outcome.out)
    assert result["epochs"] == epochs == len(rows(Path("run"))) - 1
    evaluation = run("eval", "run", "--json")
    assert json.loads(evaluation.out)["accuracy"] == result["test_accuracy"]
    assert json.loads(evaluation.out)["loss"] == pytest.approx(result["test_loss"])
    assert rows(Path("run"))[-1]["test_accuracy"] == result["test_accuracy"]
    assert run("runs", "run").code == 0


COMMANDS = (
    "eval run", "eval run --best", "trace run", f"predict run {SAMPLE}", "report run", "runs run",
    "export run --format safetensors --output x.safetensors", "handout run --output class",
)  # fmt: skip


@pytest.mark.parametrize(
    "state",
    [
        "damaged",
        *(pytest.param(s, marks=pytest.mark.long) for s in ("begun", "within", "done", "lost")),
    ],
)
def test_every_command_works_or_says_why_in_every_state(
    state: str, run: Callable[..., Outcome]
) -> None:
    config = digits("train.test_each_epoch=false", "data.validation=100")
    if state == "begun":
        events = run_events(config, "run")
        next(events)
        events.close()
    elif state == "within":
        stopped_after(4, config, "run")
    else:
        train_model(config, "run")
    paths = list_checkpoints(Path("run"))
    if state == "lost":
        paths[-1].unlink()
    elif state == "damaged":
        for path in paths:
            path.write_bytes(path.read_bytes()[:-1])
    for command in COMMANDS:
        outcome = run(*command.split())
        if state in ("begun", "damaged") and command != "runs run":
            assert (outcome.code, len(outcome.err.splitlines())) == (4, 1), outcome
        else:
            assert outcome.code == 0, (command, outcome)


def test_one_trainer_in_a_run_directory() -> None:
    events = run_events(digits(), "run")
    next(events)
    with pytest.raises(RunInUseError, match="run: another process is training here"):
        train_model(digits(), "run")
    with pytest.raises(RunInUseError):
        resumed(digits(), "run")
    while not list_checkpoints(Path("run")):
        next(events)
    with pytest.raises(RunInUseError):  # sooner than that it holds a checkpoint
        train_model(digits(), "run")
    list(events)
    resumed(digits("train.epochs=4"), "run")


LONG = ("train.epochs=60", "train.batch_size=20", "threads=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LONG that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "whole"
    train_model(load_config("digits", LONG), run_dir)
    return run_dir


def ended_as(whole: Path, run: str) -> bool:
    """Whether a run has the rows and the weights of the uninterrupted one."""
    hashes = [weights_sha256(load_checkpoint(run_dir).model) for run_dir in (run, whole)]
    assert rows(Path(run)) == rows(whole)
    return hashes[0] == hashes[1]


STARTED: list[Program] = []


@pytest.fixture(autouse=True)
def _end_what_was_started() -> Iterator[None]:
    yield
    while STARTED:
        STARTED.pop().close()


def start(*arguments: str, hook: Callable[[Mark], None] | None = None) -> Program:
    STARTED.append(Program("train", *arguments, hooks=[hook] if hook else []))
    return STARTED[-1]


def wait_for(path: str, process: Program) -> None:
    while not list(Path().glob(path)):
        assert process.running, process.wait()
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_program_resumes(sent: signal.Signals, whole: Path) -> None:
    process = start("--config", "digits", "--run-dir", "run", *LONG)
    wait_for("run/checkpoints/*.safetensors", process)
    process.send(sent)
    stopped = process.wait()
    assert stopped.code == 128 + sent
    assert stopped.err.startswith(f"mnist-mlp: stopped by {sent.name} after update ")
    assert stopped.err.endswith("go on with: mnist-mlp train --resume run\n")
    outcome = program("train", "--resume", "run", "--json")
    assert outcome.code == 0
    assert ", resumed after update " in outcome.err
    saved = weights_sha256(load_checkpoint(whole).model)
    assert json.loads(outcome.out)["weights_sha256"] == saved
    assert ended_as(whole, "run")


def take_terminal(mark: Mark, *, terminal: str) -> None:
    os.setsid()
    opened = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(opened, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(opened, number)
    os.close(opened)
    mark("terminal")


def test_a_closed_terminal_saves(whole: Path) -> None:
    terminal, its_end = pty.openpty()
    hook = partial(take_terminal, terminal=os.ttyname(its_end))
    process = start("--config", "digits", "--run-dir", "run", *LONG, hook=hook)
    assert process.until("terminal")
    os.close(its_end)
    seen = b""
    while b" 1/60" not in seen:
        seen += os.read(terminal, 1 << 16)
    os.close(terminal)
    assert process.wait().code == 128 + signal.SIGHUP
    assert 0 < load_checkpoint("run").epoch < 60
    resumed(load_config("digits", LONG), "run")
    assert ended_as(whole, "run")


@pytest.mark.parametrize(
    ("seconds", "sent"),
    [
        # While it imports PyTorch, loads the data, trains: the moments depend on the machine.
        (0.3, signal.SIGINT),
        (0.9, signal.SIGTERM),
        (1.5, signal.SIGINT),
        (2.0, signal.SIGTERM),
        *(
            pytest.param(seconds, sent, marks=pytest.mark.long)
            for seconds, sent in (
                (0.3, signal.SIGTERM), (0.6, signal.SIGINT), (0.6, signal.SIGTERM),
                (0.9, signal.SIGINT), (1.2, signal.SIGINT), (1.2, signal.SIGTERM),
                (1.5, signal.SIGTERM), (2.0, signal.SIGINT),
            )
        ),
    ],
)  # fmt: skip
def test_a_signal_before_training_ends_the_program_at_once(
    seconds: float, sent: signal.Signals
) -> None:
    """A fresh interpreter, that imports: an exception there would end in a traceback or worse."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_mlp", "train", "--config", "digits", "--run-dir", "run",
         *LONG, "train.epochs=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever started the tests in the background has SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        time.sleep(seconds)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + sent
    assert errors.startswith(f"mnist-mlp: stopped by {sent.name}")
    assert len(errors.splitlines()) == 1


def test_killed_at_random_moments_nothing_is_lost(whole: Path) -> None:
    chance = random.Random(0)
    process = start("--config", "digits", "--run-dir", "run", *LONG)
    for _ in range(4):
        wait_for("run/metrics.jsonl", process)
        time.sleep(chance.uniform(0.1, 0.6))
        process.send(signal.SIGKILL)
        assert process.wait().code in (-signal.SIGKILL, 0)
        process = start("--resume", "run")
        time.sleep(chance.uniform(0, 0.5))
    outcome = process.wait()
    assert outcome.code == 0, outcome
    assert load_checkpoint("run").epoch == 60
    assert ended_as(whole, "run")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name a --config, such as --config digits, or a run to --resume"),
        (["--resume", "nowhere"], 2, "nowhere: no such run"),
        (["--resume", "latest"], 4, "no run with a checkpoint here"),
        (
            ["--resume", "run", "--dry-run"],
            2,
            "omit --config, --run-dir, --init-from and --dry-run",
        ),
        (["--resume", "run", "seed=3"], 2, "seed: 0 in the run, 3 now"),
    ],
)
def test_mistakes(
    arguments: list[str], code: int, message: str, run: Callable[..., Outcome]
) -> None:
    train_model(digits(), "run")
    outcome = run("train", *arguments)
    assert outcome.code == code
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2

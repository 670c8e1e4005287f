import json
import os
import pty
import re
import resource
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from mnist_mlp.runs.directory import list_checkpoints
from scripts.forked import Mark
from tests.conftest import Outcome, Program

Run = Callable[..., Outcome]
SAMPLES = Path(__file__).parent / "samples"
QUICK = ("train", "--config", "digits", "train.epochs=2")


def test_train_prints_a_line_an_epoch(run: Run) -> None:
    outcome = run(*QUICK, "--device", "cpu")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert lines[:4] == [
        "data      digits: 1,437 train, 360 test examples",
        "network   784-128-64-10, 109,386 parameters, relu",
        "training  sgd, batch size 16, chain_rule, cpu, 1 thread",
        "run       runs/digits-001",
    ]
    assert re.fullmatch(r"untrained  loss 2\.\d{4} \(ln 10 = 2\.3026\)  accuracy .*", lines[4])
    assert re.match(r"epoch 1/2  loss \d\.\d{4}  accuracy \d\d\.\d\d%  test \d\d", lines[5])
    assert lines[7].startswith("2,874 forward and backward passes in 180 updates, ")
    assert lines[-2] == "saved in runs/digits-001"
    assert re.fullmatch(r"same bits on cpu \w+ \w+, chain_rule, torch [\d.+a-z]+", lines[-1])
    assert all(len(line) <= 80 for line in lines)


def test_json_is_alone_on_stdout(run: Run) -> None:
    trained = run(*QUICK, "--json")
    result = json.loads(trained.out)
    assert result["parameters"] == 109_386
    assert result["dataset"] == "digits"
    assert "epoch 2/2" in trained.err

    evaluated = json.loads(run("eval", "--json").out)
    assert evaluated["weights_sha256"] == result["weights_sha256"]
    assert evaluated["accuracy"] == result["test_accuracy"]
    assert evaluated["loss"] == result["test_loss"]
    assert evaluated["examples"] == 360
    assert len(evaluated["confusion_matrix"]) == len(evaluated["per_class"]) == 10
    assert set(evaluated["per_class"][0]) == {"digit", "precision", "recall", "f1", "support"}


def test_quiet_prints_json_and_errors_only(run: Run) -> None:
    assert run(*QUICK, "--quiet") == Outcome(0, "", "")
    loud = run(*QUICK, "--quiet", "--json")
    assert json.loads(loud.out)["run_dir"] == "runs/digits-002"
    assert loud.err == ""
    assert run("train", "--config", "nope", "--quiet").err


def test_eval_of_runs_checkpoints_and_splits(run: Run) -> None:
    run(*QUICK, "data.validation=100", "--run-dir", "a")
    table = run("eval", "a")
    assert table.out.startswith("a/checkpoints/epoch-002.safetensors: digits, test split\n360 ex")
    assert all(len(line) <= 80 for line in table.out.splitlines())
    sizes = {}
    for split in ("test", "validation", "train"):
        outcome = run("eval", "a/checkpoints/epoch-001.safetensors", "--split", split, "--json")
        sizes[split] = json.loads(outcome.out)["examples"]
    assert sizes == {"test": 360, "validation": 100, "train": 1337}


def test_count_params(run: Run) -> None:
    outcome = run("count-params")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "layer1  128 × 784 + 128 = 100,480",
        "layer2  64 × 128 + 64 = 8,256",
        "layer3  10 × 64 + 10 = 650",
        "total   109,386 parameters, as in the lesson (109,386)",
    ]
    assert json.loads(run("count-params", "--json").out) == {
        "layers": [
            {"name": "layer1", "weight_shape": [128, 784], "weights": 100352, "biases": 128,
             "parameters": 100480},
            {"name": "layer2", "weight_shape": [64, 128], "weights": 8192, "biases": 64,
             "parameters": 8256},
            {"name": "layer3", "weight_shape": [10, 64], "weights": 640, "biases": 10,
             "parameters": 650},
        ],
        "total": 109386,
        "lesson_total": 109386,
        "matches_lesson": True,
    }  # fmt: skip
    other = run("count-params", "--config", "mnist", "model.layer_sizes=[784, 10]")
    assert other.code == 0
    assert "7,850 parameters, not as in the lesson" in other.out


def test_count_params_fails_where_the_program_drifts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    class Biasless(nn.Linear):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, bias=False)

    monkeypatch.setattr(nn, "Linear", Biasless)
    outcome = run("count-params", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["total"] == 109_184


def test_validate_prints_what_loads_back_to_itself(run: Run) -> None:
    first = run("validate", "--config", "mnist", "seed=3", "data.root=/x y", "--root", "a: #b")
    Path("again.yaml").write_text(first.out)
    assert run("validate", "--config", "again.yaml").out == first.out
    assert "root: 'a: #b'" in first.out
    as_json = json.loads(run("validate", "--config", "again.yaml", "--json").out)
    assert as_json["seed"] == 3
    noted = run("validate", "--config", "digits", "schedule.gamma=0.5")
    assert noted.code == 0
    assert noted.err == "mnist-mlp: note: schedule.gamma has no effect in this config\n"


def test_configs(run: Run) -> None:
    assert [line.split()[0] for line in run("configs").out.splitlines()] == [
        "best", "digits", "fast", "lesson", "mnist", "sprint",
    ]  # fmt: skip
    for row in json.loads(run("configs", "--json").out):
        assert run("validate", "--config", row["path"]).code == 0
        assert row["description"]


def test_version_and_module(run: Run) -> None:
    assert run("--version").out == "mnist-mlp 0.1.0\n"
    module = [sys.executable, "-m", "mnist_mlp", "--version"]
    assert subprocess.run(module, capture_output=True).stdout == b"mnist-mlp 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--config", "nope"], 2, "nope: no such config file"),
        (["train", "--config", "nope.yaml"], 2, "nope.yaml: no such config file"),
        (["train", "--config", "n" * 300], 2, "File name too long"),
        (["train"], 2, "name a --config, such as --config digits, or a run to --resume"),
        (["train", "digits"], 2, "did you mean --config digits?"),
        (["train", "–config", "digits"], 2, "–config begins with a dash that is no hyphen; type -"),
        (["train", "--config", "digits", "--epochs", "5"], 2, "; train.epochs=VALUE sets a value"),
        (["train", "--config", "digits", "--lr", "5"], 2, "; optimizer.learning_rate=VALUE sets"),
        (["train", "--config", "digits", "optimizer.lr=5"], 2, "mean optimizer.learning_rate?"),
        (
            ["train", "--resume", "used", "--dry-run"],
            2,
            "omit --config, --run-dir, --init-from and --dry-run",
        ),
        (["train", "--resume", "used", "--config", "digits"], 2, "by its own config and KEY=VALUE"),
        (["train", "--resume", "nope"], 2, "nope: no such run; mnist-mlp runs lists"),
        (["train", "--resume", "file"], 2, "file: no such run"),
        (["train", "--resume", "."], 2, ".: no run began there; begin a new one"),
        (["trace", "used", "--image", "x.png", "--index", "3"], 2, "omit --index and --split"),
        (["trace", "used", "--image", "x.png", "--split", "test"], 2, "omit --index and --split"),
        (["trace", "used", "--config", "digits"], 2, "--config is for --untrained"),
        (["predict", "used", "x.png", "./used"], 2, "used and used: several networks; name one"),
        (["predict", "x.onnx", "x.png"], 4, "x.onnx: no such run or checkpoint"),
        (["export", "used", "--format", "onnx", "--output", "x.html"], 2, "x.html: is named .html"),
        (["trace", "--untrained", "--best"], 2, "--untrained takes no"),
        (["trace", "--untrained", "--label", "3"], 2, "--label is for an --image; other"),
        (["trace", "--untrained", "--index", "360"], 2, "digits test ends at 359"),
        (["predict", "used"], 2, "used: this is a network"),
        (["eval", "--split"], 2, "--split"),
        (["train", "--config", "digits", "--devise", "cpu"], 2, "--devise"),
        (["train", "--config", "digits", "--device", "tpu"], 2, "tpu"),
        (["train", "--config", "digits", "train.epochs=0"], 2, "train.epochs"),
        (["tarin"], 2, "tarin"),
        (["export"], 2, "Missing option '--format'. Choose from: html, safetensors"),
        (["train", "--config", "digits", "optimizer.learning_rate=1e39"], 2, "learning_rate"),
        (["train", "--config", "mnist", "--root", "~nobody-at-all"], 3, "no such home folder"),
        (["train", "--config", "digits", "--dry-run", "--run-dir", "/proc/x/run"], 5, "/proc"),
        (["train", "--config", "digits", "--device", "cuda"], 7, "finds no CUDA device"),
        (["train", "--config", "digits", "--run-dir", "used"], 2, "already holds a checkpoint"),
        (["train", "--config", "digits", "--run-dir", "/proc/run"], 5, "/proc/run"),
        (["train", "--config", "digits", "--run-dir", "file/run"], 5, "file/run"),
        (["train", "--config", "mnist", "--root", "no"], 3, "train-images-idx3-ubyte.gz"),
        (["train", "--config", "digits", "optimizer.learning_rate=1e15"], 6, "update 2 "),
        (["eval", "nope"], 4, "nope: no such run or checkpoint"),
        (["eval", "file"], 4, "file: not a checkpoint"),
        (["eval", "empty"], 4, "empty: no checkpoint in this folder"),
        (["eval"], 4, "no run with a checkpoint here"),
        (["eval", "used", "--split", "validation"], 3, "no validation split"),
        (["eval", "used", "--device", "cuda"], 7, "finds no CUDA device"),
        (["download", "--root", "no"], 3, "train-images-idx3-ubyte.gz"),
        (["count-params", "--config", "nope"], 2, "nope: no such config file"),
        (["validate", "--config", "file"], 2, "file:1: "),
    ],
)
def test_mistakes_end_in_two_lines_and_their_code(
    arguments: list[str],
    code: int,
    message: str,
    run: Run,
    digits_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["https://127.0.0.1:9/"])
    Path("file").write_text("words")
    Path("empty").mkdir()
    digits_run.rename("used")
    outcome = run(*arguments)
    assert outcome.code == code
    assert message in outcome.err
    assert outcome.err.startswith("mnist-mlp: ")
    assert len(outcome.err.splitlines()) <= 2
    assert "Traceback" not in outcome.err


def test_debug_shows_the_traceback(run: Run) -> None:
    assert "Traceback" in run("train", "--config", "nope", "--debug").err


def test_an_internal_error_is_exit_1_and_asks_for_a_report(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr("mnist_mlp.runs.training.run_events", fail)
    outcome = run(*QUICK)
    assert outcome.code == 1
    assert outcome.err == (
        "mnist-mlp: internal error: RuntimeError: oops; please report it\n"
        "run again with --debug for the traceback\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["validate", "--config", "digits", "seed=x"],
        ["validate", "--config", "mnist"],
        ["configs"],
    ],
)
def test_quick_commands_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys, mnist_mlp.cli\n"
        f"sys.argv = ['mnist-mlp', *{arguments!r}]\n"
        "try: mnist_mlp.cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == "[]", process


def test_exporting_weights_imports_no_other_exporter(run: Run) -> None:
    run(*QUICK)
    code = (
        "import sys, mnist_mlp.cli\n"
        "sys.argv = ['mnist-mlp', 'export', '--format', 'safetensors']\n"
        "try: mnist_mlp.cli.main()\n"
        "except SystemExit: pass\n"
        "others = {'mnist_mlp.export.graph', 'mnist_mlp.export.page', 'onnx', 'matplotlib'}\n"
        "print(sorted(others & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == "[]", process
    assert Path("digits-001.safetensors").exists()


def test_a_start_looks_for_no_garbage() -> None:
    code = (
        "import gc, sys\n"
        "from mnist_mlp.__main__ import main\n"
        "seen = []; gc.callbacks.append(lambda phase, info: seen.append(phase))\n"
        "import atexit; atexit.register(lambda: print(gc.get_freeze_count() > 100_000))\n"
        "sys.argv = ['mnist-mlp', 'count-params']\n"
        "try: main()\n"
        "except SystemExit: print('torch' in sys.modules, len(seen), file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stderr == "True 0\n", process
    assert process.stdout.endswith("\nTrue\n"), process


def test_completion_imports_no_torch() -> None:
    environment = {
        "_MNIST_MLP_COMPLETE": "complete_bash", "COMP_WORDS": "mnist-mlp tr", "COMP_CWORD": "1",
    }  # fmt: skip
    code = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); " + (
        "sys.argv = ['mnist-mlp']; from mnist_mlp.cli import main; main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout.split() == ["train", "trace", "False"], process


def test_digits_need_no_torchvision() -> None:
    code = (
        "import sys, mnist_mlp\n"
        "mnist_mlp.train_model(mnist_mlp.load_config('digits', ['train.epochs=1']))\n"
        "print('torchvision' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "False\n", process


def print_to(_mark: Mark, *, terminal: str) -> None:
    for number in (1, 2):
        os.dup2(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), number)


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = pty.openpty()
    hook = partial(print_to, terminal=os.ttyname(theirs))
    process = Program("train", "--config", "digits", "train.epochs=30", hooks=[hook])
    screen = b""
    while process.running or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            screen += os.read(ours, 1 << 16)
    os.close(ours)
    os.close(theirs)
    assert process.wait() == Outcome(0, "", "")
    text = screen.decode()
    assert re.search(r"epoch \d+/30 update [\d,]+ loss \d\.\d{4} accuracy \d\d", text)
    assert re.search(r"[\d.]+k examples/s", text)
    assert "epoch 30/30" in text


@pytest.mark.usefixtures("digits_run")
def test_no_colour_where_none_is_wanted(run: Run) -> None:
    assert "\x1b" not in run("eval").out


def test_a_closed_pipe_loses_nothing() -> None:
    command = f"{sys.executable} -m mnist_mlp train --config digits train.epochs=3 | head -1"
    process = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True
    )
    assert process.returncode == 0, process
    assert process.stderr == ""
    assert Path("runs/digits-001/checkpoints/epoch-003.safetensors").exists()


@pytest.mark.usefixtures("digits_run")
@pytest.mark.parametrize(
    "command",
    ["count-params", "configs", "--help", "validate --config mnist", "eval --json", "--version"],
)
def test_a_reader_that_leaves_is_no_failure(command: str) -> None:
    line = f"{sys.executable} -m mnist_mlp {command} | true; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert process.returncode == 0, process
    assert process.stderr == "" or "--json" in command


def test_json_is_whole_when_the_reader_of_stderr_leaves() -> None:
    line = f"{sys.executable} -m mnist_mlp {' '.join(QUICK)} --json 2> >(true)"
    process = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert process.returncode == 0
    assert json.loads(process.stdout)["epochs"] == 2


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--version >&-", 0),
        ("configs 2>&-", 0),
        (f"{' '.join(QUICK)} >&- 2>&-", 0),
        ("train --config nope 2>&-", 2),
        ("train --config nope 2>/dev/full", 2),
    ],
)
def test_closed_streams_change_no_code(command: str, code: int) -> None:
    line = f"{sys.executable} -m mnist_mlp {command}"
    process = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert process.returncode == code, process
    assert "Traceback" not in process.stderr


def limit(_mark: Mark, *, what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


def test_too_large_a_network_is_told_as_such() -> None:
    outcome = Program(
        "train", "--config", "digits", "--dry-run", "model.layer_sizes=[784, 100000, 10]",
        "data.validation=0", "train.batch_size=1437", "optimizer.name=adam",
        hooks=[partial(limit, what=resource.RLIMIT_DATA, most=1 << 30)],
    ).wait()  # fmt: skip
    assert outcome.code == 2, outcome
    assert "reduce model.layer_sizes or train.batch_size" in outcome.err


def test_bare_is_the_help(run: Run) -> None:
    outcome = run()
    assert outcome.code == 2
    assert "Usage: mnist-mlp" in outcome.out + outcome.err
    assert "See mnist-mlp" not in outcome.err


def test_eval_finds_the_data_where_it_is_told_to(run: Run, small_mnist: Path) -> None:
    Path("m.yaml").write_text("data: {validation: 0}\ntrain: {epochs: 1}")
    root = small_mnist.parent / "root"
    (root / "MNIST").mkdir(parents=True)
    small_mnist.rename(root / "MNIST" / "raw")
    assert run("train", "--config", "m.yaml", "--root", root).code == 0
    elsewhere = root.rename(root.parent / "elsewhere")
    assert run("eval").code == 3
    assert run("eval", "--root", elsewhere).code == 0
    os.environ["MNIST_MLP_DATA"] = str(elsewhere)
    try:
        assert run("eval").code == 0
    finally:
        del os.environ["MNIST_MLP_DATA"]


def test_a_write_that_the_system_refuses_is_exit_5_and_leaves_the_last_good() -> None:
    """No file may grow over 100 kB, so that the checkpoint (440 kB) cannot be written."""
    small_files = partial(limit, what=resource.RLIMIT_FSIZE, most=100_000)
    outcome = Program(*QUICK, hooks=[small_files]).wait()
    assert outcome.code == 5, outcome
    assert "checkpoints/epoch-001.safetensors: File too large" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert list(Path("runs/digits-001/checkpoints").iterdir()) == []


def test_eval_takes_the_device_of_the_config_unless_told_otherwise(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    assert run(*QUICK, "--device", "cpu", "--run-dir", "run").code == 0
    monkeypatch.setattr("mnist_mlp.runs.environment.resolve_device", note)
    assert run("eval", "run").code == run("eval", "run", "--device", "cuda").code == 0
    assert asked == ["cpu", "cuda"]


@pytest.mark.usefixtures("digits_run")
@pytest.mark.parametrize(
    "command",
    ["eval", "trace", "predict seven.png", "runs", "check-lesson", "count-params", "configs"],
)
def test_json_leaves_stderr_to_warnings_and_errors(run: Run, command: str) -> None:
    shutil.copy(SAMPLES / "7_plain.png", "seven.png")
    Path("runs/digits-001/checkpoints/epoch-009.safetensors").write_bytes(b"damaged")
    outcome = run(*command.split(), "--json")
    json.loads(outcome.out)
    warned = "epoch-009.safetensors: not a checkpoint" in outcome.err
    assert warned == (command.split()[0] in ("eval", "trace", "predict"))
    assert len(outcome.err.splitlines()) == warned


def test_a_run_is_recognised_wherever_it_is_named(run: Run) -> None:
    """By its path, its bare name, or a checkpoint of its own; before or after the picture."""
    for name in ("a", "b"):
        assert run(*QUICK, f"name={name}").code == 0
    seven = SAMPLES / "7_plain.png"
    newest = "runs/a-001/checkpoints/epoch-002.safetensors"
    for target in ("a-001", "runs/a-001", newest):
        assert run("eval", target).out.startswith(f"{newest}: digits")
        for arguments in ((target, seven), (seven, target)):
            assert run("predict", *arguments).out.startswith(f"{newest}\n{seven}  ")
    assert "several networks" in run("predict", "a-001", seven, "b-001").err
    assert json.loads(run("runs", "a-001", "runs/b-001", "--json").out)["differences"] == {
        "name": ["a", "b"]
    }


def test_resume_takes_what_people_mean_by_a_run(run: Run) -> None:
    assert run(*QUICK).code == 0
    checkpoints = Path("runs/digits-001/checkpoints")
    assert run("train", "--resume", "digits-001", "train.epochs=3").code == 0
    newest = checkpoints / "epoch-003.safetensors"
    assert "resumed after update 270" in run("train", "--resume", newest, "train.epochs=4").out
    older = run("train", "--resume", newest, "train.epochs=5")
    assert (older.code, len(list_checkpoints(checkpoints.parent))) == (2, 3)
    assert older.err == (
        f"mnist-mlp: {newest}: its run went on to epoch-004.safetensors; "
        "--resume runs/digits-001 continues that,\n"
        f"--init-from {newest} begins a new run with its weights\n"
    )
    Path("runs/digits-001/config.yaml").unlink()
    lost = run("train", "--resume", "digits-001")
    assert lost.code == 2
    assert lost.err == (
        "mnist-mlp: runs/digits-001: its config.yaml is lost; begin a new one with --config\n"
    )


def test_an_older_run_is_not_used_unsaid(run: Run) -> None:
    assert run(*QUICK).code == 0
    assert run(*QUICK, "optimizer.learning_rate=1e15").code == 6
    said = "runs/digits-002 saved no checkpoint; using runs/digits-001"
    for command in (["eval"], ["trace"], ["export", "--format", "safetensors"]):
        assert run(*command).out.startswith(f"{said}\n")
    assert run("eval", "--json").err == f"{said}\n"
    assert run("train", "--resume", "latest", "train.epochs=3").out.startswith(said)


def test_exports_are_read_or_named(run: Run) -> None:
    assert run(*QUICK, "model.layer_sizes=784,32,10", "model.activation=tanh").code == 0
    for format_ in ("safetensors", "pt2"):
        assert run("export", "--format", format_).code == 0
    exported = "digits-001.safetensors"
    known, read = (json.loads(run("eval", *of, "--json").out) for of in ([], [exported]))
    assert read == known
    traced = [json.loads(run("trace", *of, "--json").out) for of in ([], [exported])]
    assert traced[0] == traced[1]
    assert run("predict", exported, SAMPLES / "7_plain.png").code == 0
    assert run("export", exported, "--format", "pt2", "--output", "again.pt2").code == 0
    assert run("train", "--resume", exported).code == 2
    refused = run("eval", "digits-001.pt2")
    assert refused.code == 4
    assert "an export for other programs; name the run or checkpoint" in refused.err
    damaged = bytearray(Path(exported).read_bytes())
    damaged[-1] ^= 1
    Path(exported).write_bytes(damaged)
    assert "damaged: its content does not match" in run("eval", exported).err


def test_an_export_says_what_it_replaces_and_harms_no_checkpoint(run: Run) -> None:
    assert run(*QUICK).code == 0
    said = "digits-001.safetensors: replaces the file that was there"
    assert said not in run("export", "--format", "safetensors").out
    assert said in run("export", "--format", "safetensors").out
    Path("folder").mkdir()
    assert run("export", "--format", "safetensors", "--output", "folder").code == 0
    assert run("eval", "folder/digits-001.safetensors").code == 0
    checkpoint = Path("runs/digits-001/checkpoints/epoch-001.safetensors")
    before = checkpoint.read_bytes()
    refused = run("export", "--format", "safetensors", "--output", checkpoint)
    assert (refused.code, checkpoint.read_bytes()) == (2, before)


def test_training_says_what_has_no_effect(run: Run) -> None:
    outcome = run(*QUICK, "optimizer.name=adam", "optimizer.momentum=0.9", "schedule.gamma=0.5")
    for key in ("optimizer.momentum", "schedule.gamma"):
        assert f"note      {key} has no effect in this config\n" in outcome.out


def test_a_failing_picture_is_told_once(run: Run, digits_run: Path) -> None:
    Path("words.png").write_text("words")
    one = run("predict", "words.png")
    assert (one.out + one.err).count("words.png") == 1
    Path("more.png").write_text("words")
    two = run("predict", "words.png", "more.png")
    assert two.err == "mnist-mlp: 2 of 2 pictures could not be read\n"
    assert (two.code, two.out.count("words.png"), two.out.count("more.png")) == (3, 1, 1)
    silent = run("predict", "words.png", "more.png", "--quiet")
    assert (silent.err.count("words.png"), silent.err.count("more.png")) == (1, 1)

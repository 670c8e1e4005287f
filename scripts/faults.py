"""What the README promises, tried on the real program with one fault after another.

    python scripts/faults.py            # every fault, as often as the README says: 20 minutes
    python scripts/faults.py kills disk # some of them

`tests/test_faults.py` tries the same less often. An outcome that is not as promised ends in an
AssertionError. The program runs in forked processes (scripts/forked.py), so that a kill costs no
import. What such a process is told to do to itself (fail a write, report that a save begins)
replaces functions at the edge of the program, never one that decides anything.
"""

import contextlib
import ctypes
import errno
import hashlib
import http.server
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple
from unittest import mock

import safetensors.torch
import torch
import typer
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the other scripts

from mnist_mlp import files
from mnist_mlp import mnist_files as files_module
from mnist_mlp.config import load_config
from mnist_mlp.errors import CheckpointError, DataError
from mnist_mlp.runs import record as record_module
from mnist_mlp.runs.checkpoint import MAX_HEADER_BYTES, load_checkpoint
from mnist_mlp.runs.directory import list_checkpoints, whole_epochs
from mnist_mlp.signals import STOP_SIGNALS
from mnist_mlp.steps import data
from mnist_mlp.steps import train as train_module
from mnist_mlp.steps.optimizer import GradientDescent
from mnist_mlp.updates.compiled import CompiledUpdater
from mnist_mlp.views.notebook import train_model
from scripts.forked import CONTEXT, TIMEOUT_S, Hook, Mark, Outcome, Program

RUN = (
    "--config", "digits", "train.epochs=30", "train.batch_size=20", "optimizer.momentum=0.9",
    "optimizer.learning_rate=0.02", "data.validation=137", "checkpoint.keep=2",
)  # fmt: skip
PLAIN = "optimizer.momentum=0.0"
"""Makes the run's updates those of plain gradient descent, which have a code of their own."""
COMPILED = ("train.batch_size=2", PLAIN, "optimizer.learning_rate=0.003")
"""Makes the run's epochs long enough for the compiled loop."""
UPDATES_PER_EPOCH = 65


def _result(outcome: Outcome) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(outcome.expect(0).out)
    return result


def _uninterrupted(*overrides: str) -> str:
    """The SHA-256 of the weights of a run that nothing happens to."""
    return str(_result(_train("whole", *overrides).wait())["weights_sha256"])


def _train(run: str, *more: str, hooks: Sequence[Hook] = ()) -> Program:
    """Begin a run, or go on with it."""
    begun = Path(run, "config.yaml").exists()
    how = ("--resume", run) if begun else ("--run-dir", run, *RUN)
    return Program("train", *how, *more, "--json", hooks=hooks)


def _finish(run: str, weights_sha256: str) -> None:
    """Go on with a run: it must end as the uninterrupted one did, with nothing left lying."""
    assert _result(_train(run).wait())["weights_sha256"] == weights_sha256
    assert not list(Path(run).rglob("*.tmp"))
    rows = Path(run, "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(row)["epoch"] for row in rows]
    assert epochs == list(range(len(epochs)))
    shutil.rmtree(run)


# Hooks: what a process is told to do to itself.


def mark_moments(mark: Mark) -> None:
    """Say when an update is done, an evaluation begins, a save begins and ends."""

    def marked(function: Callable[..., Any], before: str, after: str = "") -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            mark(before)
            result = function(*arguments, **settings)
            if after:
                mark(after)
            return result

        return call

    updates = iter(("update",))

    def mark_update(*_: object) -> None:
        if name := next(updates, None):
            mark(name)

    _after_updates(mark_update)
    for module, name, marks in (
        (record_module, "save_checkpoint", ("save", "saved")),
        (train_module, "evaluate_model", ("evaluation",)),
    ):
        setattr(module, name, marked(getattr(module, name), *marks))


def _after_updates(call: Callable[[torch.Tensor], None]) -> None:
    """Have each update, or call of the compiled loop, call something with weights it made."""
    register_optimizer_step_post_hook(lambda opt, *_: call(opt.param_groups[0]["params"][0]))
    step = GradientDescent.step

    def watched(optimizer: GradientDescent) -> None:
        step(optimizer)
        call(optimizer.param_groups[0]["params"][0])

    GradientDescent.step = watched  # type: ignore[assignment, method-assign]
    run_epoch = CompiledUpdater.run_epoch

    def watched_loop(updater: CompiledUpdater, *arguments: Any) -> Iterator[int]:
        for batch in run_epoch(updater, *arguments):
            call(torch.from_numpy(updater.flat[0]))
            yield batch

    CompiledUpdater.run_epoch = watched_loop  # type: ignore[assignment, method-assign]


SAVE = ("create", "write", "fsync", "rename", "open folder", "fsync")
"""The steps of a save, in the order in which they must come."""


def watch_steps(mark: Mark, before: Callable[[str, int], None] | None = None) -> None:
    """Say each step that a save takes; `before` is told it and the save's number first."""
    saves = 0
    real = os

    def step(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            nonlocal saves
            if name == "create":
                saves += Path(arguments[0]).name.startswith(".epoch-")
            if saves:
                if before:
                    before(name, saves)
                mark(name)
            return function(*arguments, **settings)

        return call

    class File(io.FileIO):
        def write(self, content: Any) -> int:
            try:
                return int(step("write", super().write)(content))
            except OSError:  # as a full disk does
                super().write(memoryview(content)[: len(content) // 2])
                raise

    class Steps(type(Path())):  # type: ignore[misc]
        replace = step("rename", Path.replace)

        def open(self, mode: str) -> Any:
            if mode != "xb":
                return super().open(mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = step("create", real.open)(self, flags, 0o666)
            return io.BufferedWriter(File(descriptor, "wb"))

    calls = vars(real) | {
        "open": step("open folder", real.open),
        "fsync": step("fsync", real.fsync),
    }
    for name, replacement in {
        "os": SimpleNamespace(**calls),
        "Path": Steps,
    }.items():
        setattr(files, name, replacement)


def fail_step(mark: Mark, *, number: int, error: int, save: int, run: str) -> None:
    """Have a step of a save fail, after saying what checkpoints there are."""
    taken = 0

    def before(_name: str, current: int) -> None:
        nonlocal taken
        if current == save:
            if taken == number:
                mark(json.dumps(_contents(run)))
                taken += 1
                raise OSError(error, os.strerror(error))
            taken += 1

    watch_steps(lambda _: None, before)


def spoil_weights(_mark: Mark, *, update: int) -> None:
    """Make a weight NaN after an update."""
    done = 0

    def spoil(weights: torch.Tensor) -> None:
        nonlocal done
        done += 1
        if done == update:
            with torch.no_grad():
                weights[0, 0] = float("nan")

    _after_updates(spoil)


def use_files(_mark: Mark, *, known: dict[str, str]) -> None:
    """Take the files with these md5s for MNIST's, and leave torchvision's mirrors alone."""
    from torchvision.datasets import MNIST

    files_module.FILE_MD5 = known
    MNIST.mirrors = []


def drop_rights(_mark: Mark) -> None:
    """Be kept out of read-only folders, also as root (who is let in by two capabilities)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0


# Faults: each is tried `count` times and tells what was seen.


def kills(count: int, chance: random.Random) -> str:
    """SIGKILL at random moments after the first update, half of them inside a save."""
    kinds = ((), (PLAIN,), COMPILED)
    whole = {}
    for kind in kinds:
        whole[kind] = _uninterrupted(*kind)
        shutil.rmtree("whole")
    inside = killed = lost = runs = 0
    newest: tuple[int, ...] = ()
    while killed < count:
        run, kind = f"run-{runs}", kinds[runs % 3]
        process = _train(run, *kind, hooks=[mark_moments])
        if killed % 2:
            alive = process.until("save", chance.randrange(1, 6))
            time.sleep(chance.uniform(0, 0.004))
        else:
            alive = process.until("update")
            time.sleep(chance.uniform(0, 0.3))
        process.send(signal.SIGKILL)
        code = process.wait().expect(0, -signal.SIGKILL).code
        if alive and code == -signal.SIGKILL:
            killed += 1
            inside += process.marks.count("save") > process.marks.count("saved")
            before, newest = newest, tuple(_positions(run))
            lost += bool(before) and (not newest or newest[-1] < before[-1])
        if code == 0 or killed in (count // 3, count * 2 // 3, count):  # a run of each kind
            _finish(run, whole[kind])
            newest = ()
            runs += 1
    assert not lost
    return f"{killed:,} kills, {inside:,} inside a save, {runs} runs: 0 lost"


def _positions(run: str) -> list[int]:
    """The updates of a run's checkpoints, each of which must be whole."""
    return [load_checkpoint(path).update for path in list_checkpoints(Path(run))]


def signals(count: int, chance: random.Random) -> str:
    """SIGINT, SIGTERM and SIGHUP in start-up, download, training, evaluation and saving."""
    whole = _uninterrupted()
    phases = ("start-up", "download", "update", "evaluation", "save")
    with _dripping_mirror() as (mirror, asked):
        Path("mirror.yaml").write_text(f"data: {{dataset: mnist, mirrors: ['{mirror}']}}\n")
        for number in range(count):
            phase, sent = phases[number % len(phases)], chance.choice(STOP_SIGNALS)
            if phase == "start-up":
                code = _signal_while_starting(sent, chance.uniform(0.2, 2))
                assert code == 128 + sent, (phase, sent, code)
                continue
            if phase == "download":
                asked.clear()
                only_mirror = partial(use_files, known=files_module.FILE_MD5)
                command = ("download", "--config", "mirror.yaml", "--root", "root")
                process = Program(*command, hooks=[only_mirror])
                assert asked.wait(TIMEOUT_S)
                time.sleep(chance.uniform(0, 0.3))
                process.send(sent)
                process.wait().expect(128 + sent)
                assert not Path("root").exists()
                continue
            process = _train("run", hooks=[mark_moments])
            assert process.until(phase, 1 if phase == "update" else chance.randrange(1, 20))
            time.sleep(chance.uniform(0, {"update": 0.2, "save": 0.004}.get(phase, 0.001)))
            process.send(sent)
            process.wait().expect(128 + sent)
            _finish("run", whole)
    return f"{count} signals in {len(phases)} phases: exit 129, 130 or 143 each time, 0 lost"


def _signal_while_starting(sent: int, seconds: float) -> int:
    """The exit code of a real start, import and all."""

    def defaults() -> None:  # whoever started this in the background has SIGINT ignored
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_mlp", "train", "--run-dir", "started", *RUN],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=defaults,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(sent)
    code = process.wait(TIMEOUT_S)
    shutil.rmtree("started", ignore_errors=True)
    return code


@contextlib.contextmanager
def _dripping_mirror() -> Iterator[tuple[str, threading.Event]]:
    """A mirror that is asked, and sends a byte now and then."""
    asked = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b"x")
                    time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def trainers(count: int, _chance: random.Random) -> str:
    """Two trainers at once in one run directory."""
    for _ in range(count):
        both = [Program("train", "--run-dir", "run", *RUN) for _ in range(2)]
        codes = sorted(process.wait().expect(0, 8).code for process in both)
        assert codes == [0, 8], codes
        shutil.rmtree("run")
    return f"{count} pairs: one trained, the other ended with 8"


def starts(count: int, _chance: random.Random) -> str:
    """Two starts at once, each choosing a new run directory."""
    for _ in range(count):
        both = [Program("train", *RUN, "train.epochs=1", "--json") for _ in range(2)]
        chosen = {_result(process.wait())["run_dir"] for process in both}
        assert len(chosen) == 2, chosen
        shutil.rmtree("runs")
    return f"{count} pairs: two directories each time"


def order(count: int, chance: random.Random) -> str:
    """The steps of every save: write, fsync, rename, fsync of the folder."""
    saves = 0
    for _ in range(count):
        setting = chance.choice(["backward=autograd", "backward=chain_rule", "epochs=20"])
        process = _train("run", f"train.{setting}", hooks=[watch_steps])
        process.wait().expect(0)
        steps = [step for step in process.marks if step != "the end"]
        while steps:
            taken = steps[: len(SAVE)]
            assert tuple(taken) == SAVE, taken
            del steps[: len(SAVE)]
            saves += 1
        shutil.rmtree("run")
    return f"{saves} saves: {', '.join(SAVE)}"


def disk(count: int, chance: random.Random) -> str:
    """No space, an input/output error, a quota: at every step of a save."""
    whole = _uninterrupted("train.epochs=6")
    errors = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
    for attempt in range(count):  # 7 have every step once, 21 every step with every error
        number, error = attempt % len(SAVE), errors[attempt % len(errors)]
        fault = partial(
            fail_step, number=number, error=error, save=chance.randrange(2, 6), run="run"
        )
        process = _train("run", "train.epochs=6", hooks=[fault])
        outcome = process.wait().expect(5)
        assert os.strerror(error) in outcome.err, outcome
        (before,) = process.marks
        after = _contents("run")
        assert json.loads(before).items() <= after.items(), (SAVE[number], before, after)
        assert before != "{}"
        assert not list(Path("run").rglob("*.tmp")), SAVE[number]
        _finish("run", whole)
    return f"{count:,} failures at {len(SAVE)} steps: exit 5, the checkpoints before it unchanged"


def _contents(run: str) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in list_checkpoints(Path(run))
    }


def small_disk(count: int, chance: random.Random) -> str:
    """A real file system that is full sooner or later (needs `unshare` and `mount`)."""
    mnist_mlp = f"{sys.executable} -m mnist_mlp"
    Path("small").mkdir()
    full = 0
    for _ in range(count):
        size = chance.randrange(880, 3_000)
        script = f"""
            mount -t tmpfs -o size={size}k tmpfs small && cd small || exit 99
            {mnist_mlp} train --run-dir run {" ".join(RUN)} train.epochs=6 >/dev/null 2>&1
            code=$?
            ls -A run/checkpoints | grep -q tmp && exit 98
            ls run/checkpoints | grep -q . && {{ {mnist_mlp} eval run --quiet || exit 97; }}
            mount -o remount,size=64m . &&
            {mnist_mlp} train --resume run --quiet || exit 96
            exit $code"""
        ended = subprocess.run(["unshare", "-rm", "sh", "-c", script], check=False)
        if ended.returncode == 99:
            return "not tried: no right to mount here"
        assert ended.returncode in (0, 5), (size, ended.returncode)
        full += ended.returncode == 5
    assert full or count < 5
    return f"{count} file systems of 0.9 to 3 MB: {full} full in the run (exit 5), 0 lost"


def folders(count: int, _chance: random.Random) -> str:
    """A run directory that cannot be written, and one that vanishes under the run."""
    tried = 0
    for _ in range(count):
        for name in ("new", "empty", "begun"):
            folder = Path(name)
            folder.mkdir()
            if name == "begun":
                _train("begun/run", "train.epochs=2").wait().expect(0)
            run = "new/run" if name == "new" else "empty" if name == "empty" else "begun/run"
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
            process = _train(run, "train.epochs=3", hooks=[mark_moments, drop_rights])
            process.wait().expect(5)
            assert "update" not in process.marks, name
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            shutil.rmtree(folder)
            tried += 1
        for vanishing in ("run", "run/checkpoints"):
            process = _train("run", hooks=[mark_moments])
            assert process.until("saved", 2)
            Path(vanishing).rename("moved")
            process.wait().expect(5)
            shutil.rmtree("moved")
            shutil.rmtree("run", ignore_errors=True)
            tried += 1
    return f"{tried} folders: exit 5, where it was read-only before the first update"


def truncations(count: int, chance: random.Random) -> str:
    """A checkpoint cut short at every KiB, and at random places."""
    content = _lesson_sized().read_bytes()
    random_places = [chance.randrange(len(content)) for _ in range(count)]
    lengths = sorted({*range(0, len(content), 1024), *random_places}, reverse=True)
    cut = Path("cut.safetensors")
    cut.write_bytes(content)
    for length in lengths:
        os.truncate(cut, length)
        _refused(cut)
    through = chance.sample(lengths, _through_program(count))
    for length in through:
        cut.write_bytes(content[:length])
        Program("eval", cut).wait().expect(4)
    return f"{len(lengths):,} lengths, {len(through)} more through the program: 0 accepted"


def _through_program(count: int) -> int:
    """How many of so many trials in this process are repeated with the program in its own."""
    return min(20, count // 10)


def flips(count: int, chance: random.Random) -> str:
    """Every bit of a checkpoint's header flipped (of few trials, every thirteenth), and others."""
    path = _lesson_sized()
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    bits = range(0, 8 * header, 1 if count >= 2000 else 13)
    others = [chance.randrange(8 * header, 8 * len(content)) for _ in range(count)]
    half = _through_program(count) // 2
    with path.open("r+b", buffering=0) as file:
        for bit in [*bits, *others]:
            _flip(file, content, bit)
            _refused(path)
            _flip(file, content, bit)
        load_checkpoint(path)
        for bit in [*chance.sample(range(8 * header), half), *others[:half]]:
            _flip(file, content, bit)
            Program("eval", path).wait().expect(4)
            _flip(file, content, bit)
    accepted = _accepted_elsewhere(path, others[:2000])
    tried = f"{len(bits) + len(others):,} bits, {2 * half} more through the program"
    return f"{tried}: 0 accepted; {accepted}"


def _accepted_elsewhere(path: Path, bits: Sequence[int]) -> str:
    """How many flips of the numbers' bits the usual ways to store them accept."""
    tensors = load_checkpoint(path).model.state_dict()
    torch.save(tensors, "plain.pt")
    safetensors.torch.save_file(tensors, "plain.safetensors")
    told = []
    for name, load in (
        ("plain.pt", partial(torch.load, weights_only=True)),
        ("plain.safetensors", safetensors.torch.load_file),
    ):
        content = bytearray(Path(name).read_bytes())
        accepted = 0
        with Path(name).open("r+b", buffering=0) as file:
            for bit in bits:
                place = bit % (8 * len(content))
                _flip(file, content, place)
                with contextlib.suppress(Exception):
                    load(name)
                    accepted += 1
                _flip(file, content, place)
        told.append(f"{name} {accepted / len(bits):.1%}")
    return "accepted of such files elsewhere: " + ", ".join(told)


def _flip(file: io.FileIO, content: bytearray, bit: int) -> None:
    content[bit // 8] ^= 1 << bit % 8
    file.seek(bit // 8)
    file.write(content[bit // 8 : bit // 8 + 1])


def _lesson_sized() -> Path:
    """A checkpoint of the lesson's network with momentum."""
    settings = ["train.epochs=1", "optimizer.momentum=0.9"]
    train_model(load_config("digits", settings), "sized")
    (path,) = whole_epochs(Path("sized"))
    return path


def _refused(path: Path) -> None:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        assert len(str(error).splitlines()) <= 2
    else:
        raise AssertionError(f"{path} was accepted")


class Canary:
    """Creates a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("canary"),)


def canaries(count: int, _chance: random.Random) -> str:
    """Pickles, archives, polyglots and other types of files, with a payload that would show.

    Each goes through `count` of three commands.
    """
    good = _lesson_sized().read_bytes()
    payload = pickle.dumps(Canary())
    pickle.loads(payload)
    Path("canary").unlink()  # or this test could not fail
    legacy, zipped = io.BytesIO(), io.BytesIO()
    torch.save({"layer1.weight": Canary()}, legacy, _use_new_zipfile_serialization=False)
    torch.save({"layer1.weight": Canary()}, zipped)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("__main__.py", "open('canary', 'w')")
    header_size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + header_size])
    header["__metadata__"] |= {
        "config": "!!python/object/apply:pathlib.Path.touch [!!python/object:pathlib.Path {}]",
    }
    yaml_tag = json.dumps(header).encode()
    header["__metadata__"]["metrics"] = payload.hex()
    in_metadata = json.dumps(header).encode()
    carriers = {
        **{f"pickle {p}": pickle.dumps(Canary(), protocol=p) for p in range(6)},
        "torch.save": zipped.getvalue(),
        "torch.save, legacy": legacy.getvalue(),
        "zip": archive.getvalue(),
        "script": b"#!/bin/sh\ntouch canary\n",
        "python": b"open('canary', 'w')\n",
    }
    contents = dict(carriers)
    for name, content in carriers.items():
        contents[f"{name} after a length"] = struct.pack("<Q", len(content)) + content
        contents[f"checkpoint, then {name}"] = good + content
        contents[f"header, then {name}"] = good[: 8 + header_size] + content
    contents |= {
        "a YAML tag in the config": struct.pack("<Q", len(yaml_tag)) + yaml_tag,
        "a pickle in the metadata": struct.pack("<Q", len(in_metadata)) + in_metadata,
        "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False}\n" + payload,
        "png": b"\x89PNG\r\n\x1a\n" + payload,
        "empty": b"",
        "text": b"layer1.weight: 1\n",
    }
    for number, (name, content) in enumerate(contents.items()):
        path = Path(f"{number}.safetensors")
        path.write_bytes(content)
        run = Path(f"run-{number}", "checkpoints")
        run.mkdir(parents=True)
        shutil.copy("sized/config.yaml", run.parent)
        path.replace(run / "epoch-001.safetensors")
        commands: tuple[tuple[str | Path, ...], ...] = (
            ("eval", run / "epoch-001.safetensors"),
            ("trace", run.parent),
            ("train", "--resume", run.parent),
        )
        for attempt in range(count):
            Program(*commands[(number + attempt) % 3]).wait().expect(4)
        assert not list(Path().rglob("canary")), name
    return f"{len(contents)} files, each through {count} commands: exit 4, no canary"


def headers(count: int, chance: random.Random) -> str:
    """Hostile headers, each refused within a second and 64 MB."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    seed = chance.randrange(1 << 32)
    small = ["train.epochs=1", "model.layer_sizes=[784,2,10]", "optimizer.momentum=0.9"]
    train_model(load_config("digits", small), "small")
    (path,) = whole_epochs(Path("small"))
    process = CONTEXT.Process(target=_try_headers, args=(path.absolute(), count, seed, writer))
    process.start()
    writer.close()
    tried, longest, megabytes = reader.recv()
    process.join()
    assert process.exitcode == 0, f"seed {seed}"
    assert longest < 1, f"{longest:.2f} s, seed {seed}"
    assert megabytes <= 64, f"{megabytes} MB, seed {seed}"
    hostile = Path("hostile.safetensors")
    content = path.read_bytes()
    for number in range(_through_program(count)):
        claim = struct.pack("<Q", chance.choice([number, MAX_HEADER_BYTES + number, 1 << 63]))
        hostile.write_bytes(claim + content[8:])
        Program("eval", hostile).wait().expect(4)
    return f"{tried:,} headers: 0 accepted, at most {longest:.2f} s and {megabytes} MB more"


def _try_headers(path: Path, count: int, seed: int, writer: Any) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    good, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    tensors = sorted(good.keys() - {"__metadata__"})
    numbers = st.integers() | st.sampled_from([-1, 1 << 31, 1 << 63, 1 << 64, 10**30])
    scalars = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=20)
    anything = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    )
    shapes = st.lists(numbers, max_size=6) | st.lists(st.just(1 << 62), max_size=9) | anything
    dtypes = st.sampled_from(["F64", "F16", "BF16", "I8", "BOOL", "U64", "F8_E4M3", "", "f32"])
    offsets = st.lists(numbers, min_size=2, max_size=2) | anything
    sizes = st.lists(st.integers(-1, 60_000), max_size=120).map(lambda hidden: [784, *hidden, 10])

    @st.composite
    def hostile(draw: Callable[..., Any]) -> bytes:
        header = json.loads(json.dumps(good))
        metadata = header["__metadata__"]
        name = draw(st.sampled_from(tensors))
        kind = draw(st.integers(0, 9))
        claimed = None
        if kind == 0:
            header[name] |= {"shape": draw(shapes)}
        elif kind == 1:
            header[name] |= {"dtype": draw(dtypes | anything)}
        elif kind == 2:
            header[name] |= {"data_offsets": draw(offsets)}
        elif kind == 3:
            header[draw(st.sampled_from(tensors))] = draw(anything)
        elif kind == 4:
            del header[name]
        elif kind == 5:
            extra = draw(st.integers(1, 1500))
            header |= {f"{draw(st.text(max_size=9))}{i}": header[name] for i in range(extra)}
        elif kind == 6:
            config = json.loads(metadata["config"])
            config["model"]["layer_sizes"] = draw(sizes | anything)
            metadata["config"] = json.dumps(config)
        elif kind == 7:
            key = draw(st.sampled_from(sorted(metadata.keys() - {"order_hash"})))
            metadata[key] = draw(scalars.filter(lambda value: not isinstance(value, str)))
        elif kind == 8:
            claimed = draw(st.integers(0, (1 << 64) - 1) | st.integers(0, 2 * size))
        if kind != 7 or key != "content_sha256":
            metadata["content_sha256"] = "0" * 64
        text = json.dumps(header, separators=(",", ":")).encode()
        if kind == 9:  # as deep as fits
            depth = draw(st.integers(1, MAX_HEADER_BYTES // 8))
            opening = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))
            text = b'{"__metadata__":' + opening[0] * depth + b"1" + opening[1] * depth + b"}"
        length = len(text) if claimed is None else claimed
        sealed = struct.pack("<Q", length) + text + body
        digest = hashlib.sha256(sealed).hexdigest()
        return sealed.replace(b"0" * 64, digest.encode(), 1)

    target = path.with_name("epoch-002.safetensors")
    load_checkpoint(path)
    tried = 0
    longest = 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    highest = 0

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile())
    def attempt(hostile_content: bytes) -> None:
        nonlocal tried, longest, highest
        if hostile_content == content:
            return
        tried += 1
        target.write_bytes(hostile_content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        _refused(target)
        longest = max(longest, time.monotonic() - began)
        highest += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    attempt()
    assert peak
    writer.send((tried, longest, highest // 1024))


def divergence(count: int, chance: random.Random) -> str:
    """A loss that stops being finite at a chosen update, in each way to make updates."""
    whole = {}
    for number in range(count):
        way = ("train.backward=chain_rule", "train.backward=autograd", PLAIN)[number % 3]
        overrides = ("train.epochs=6", way)
        if way not in whole:
            whole[way] = _uninterrupted(*overrides)
            shutil.rmtree("whole")
        update = chance.randrange(UPDATES_PER_EPOCH + 1, 5 * UPDATES_PER_EPOCH)
        process = _train("run", *overrides, hooks=[partial(spoil_weights, update=update)])
        outcome = process.wait().expect(6)
        what = "a weight after" if update % UPDATES_PER_EPOCH == 0 else "the loss of"
        named = update if what == "a weight after" else update + 1
        assert f"{what} update {named} " in outcome.err, (update, outcome)
        done = load_checkpoint("run").update
        assert 0 <= update - done <= UPDATES_PER_EPOCH, (update, done)
        _finish("run", whole[way])
    return f"{count} losses or weights: exit 6, the update named, the last good checkpoint kept"


def mnist_files(count: int, chance: random.Random) -> str:
    """MNIST's files missing, empty, cut, flipped, swapped, mislabelled, miscounted."""
    raw = Path("root/MNIST/raw")
    raw.mkdir(parents=True)
    good = _small_mnist()
    processed = raw.parent / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(pickle.dumps(Canary()))
    known = {name: _md5(content) for name, content in good.items()}

    def put(contents: dict[str, bytes]) -> None:
        for name, content in contents.items():
            (raw / name).write_bytes(content)

    def spoil() -> str:
        put(good)
        name = chance.choice(list(good))
        content, kind = bytearray(good[name]), chance.randrange(8)
        if kind == 0:
            (raw / name).unlink()
            return name
        if kind == 1:
            content.clear()
        elif kind == 2:
            del content[chance.randrange(len(content)) :]
        elif kind == 3:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        elif kind == 4:
            other = chance.choice([n for n in good if n != name])
            content[:] = good[other]
        elif kind == 5:
            name = chance.choice([n for n in good if "labels" in n])
            content = bytearray(good[name])
            content[chance.randrange(8, len(content))] = chance.randrange(10, 256)
        elif kind == 6:
            content[4:8] = struct.pack(">i", chance.choice([0, 1, 19, 21, -1, 1 << 30]))
        else:
            content += chance.randbytes(chance.randrange(1, 999))
        (raw / name).write_bytes(content)
        return name

    with (
        mock.patch.object(files_module, "FILE_MD5", known),
        mock.patch("torchvision.datasets.MNIST.mirrors", []),
    ):
        put(good)
        assert len(data.load_dataset("mnist", "root").train.labels) == 20  # the good are loaded
        for _ in range(count):
            name = spoil()
            try:
                data.load_dataset("mnist", "root")
            except DataError as error:
                assert name in str(error), error
            else:
                raise AssertionError(f"{name} was accepted")
    through = _through_program(count)
    for _ in range(through):
        name = spoil()
        process = Program(
            "train", "--config", "mnist", "--root", "root", hooks=[partial(use_files, known=known)]
        )
        assert name in process.wait().expect(3).err
    assert not list(Path().rglob("canary"))
    assert not Path("runs").exists()
    return f"{count} sets of files, {through} more through the program: exit 3, the file named"


def _small_mnist() -> dict[str, bytes]:
    """Files in MNIST's format, of 20 and 10 random images."""
    made = random.Random(0)
    contents = {}
    for part, count in (("train", 20), ("t10k", 10)):
        contents[f"{part}-images-idx3-ubyte"] = struct.pack(
            ">4i", 0x803, count, 28, 28
        ) + made.randbytes(count * 784)
        contents[f"{part}-labels-idx1-ubyte"] = struct.pack(">2i", 0x801, count) + bytes(
            i % 10 for i in range(count)
        )
    return contents


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Fault(NamedTuple):
    """What is tried, and how often: by this script, by all tests, by the quick tests."""

    attempt: Callable[[int, random.Random], str]
    in_script: int
    in_tests: int
    in_quick_tests: int


FAULTS = {
    fault.attempt.__name__: fault
    for fault in (
        Fault(kills, 1000, 30, 8),
        Fault(signals, 100, 10, 5),
        Fault(trainers, 50, 5, 2),
        Fault(starts, 50, 5, 2),
        Fault(order, 20, 2, 2),
        Fault(disk, 420, 21, 7),
        Fault(small_disk, 20, 1, 1),
        Fault(folders, 4, 1, 1),
        Fault(truncations, 500, 500, 50),
        Fault(flips, 10_000, 2_000, 100),
        Fault(canaries, 3, 3, 1),
        Fault(headers, 10_000, 1_000, 100),
        Fault(divergence, 40, 20, 3),
        Fault(mnist_files, 5_000, 500, 100),
    )
}


def try_fault(name: str, count: int, seed: int) -> str:
    """Try one in the current folder.

    Raises:
        AssertionError: An outcome is not as promised.
    """
    return FAULTS[name].attempt(count, random.Random(f"{name} {seed}"))


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="FAULT", help="Default: all.")
    ] = None,
    seed: int = 0,
) -> None:
    """Try faults and tell what was seen, a line each."""
    torch.set_num_threads(1)
    os.environ["https_proxy"] = "http://127.0.0.1:9"  # where nobody listens
    os.environ.pop("MNIST_MLP_DATA", None)
    for name in names or FAULTS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            began = time.monotonic()
            seen = try_fault(name, FAULTS[name].in_script, seed)
            typer.echo(f"{name}: {seen} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    typer.run(main)

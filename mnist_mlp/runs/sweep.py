"""A sweep: every combination of some config values, as ordinary runs in one folder.

It goes on where it was stopped. With several jobs, each combination is trained by a process that is
forked from one which has imported torch.
"""

import json
import multiprocessing
import os
import re
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mnist_mlp.config import Config, load_config, short_keys
from mnist_mlp.errors import DivergedError, MnistMlpError, StoppedError, UsageError
from mnist_mlp.runs.directory import RUNS, whole_epochs
from mnist_mlp.runs.listing import RunSummary, summarise
from mnist_mlp.signals import STOP_SIGNALS, Stop, stop_requested

GO_ON = "; the same command goes on"


@dataclass(frozen=True)
class Trial:
    """One combination: its varied values by key, its config, and the folder of its run."""

    values: dict[str, Any]
    config: Config
    run_dir: Path

    @property
    def summary(self) -> RunSummary | None:
        """What it has come to; None before it has begun."""
        begun = (self.run_dir / "config.yaml").is_file()
        return summarise(self.run_dir) if begun else None

    @property
    def finished(self) -> bool:
        """Whether its last epoch is trained and saved; a UsageError for a run of another config."""
        summary, new = self.summary, self.config.flat()
        old = summary.config.flat() if summary else new
        for key in new:
            if old[key] != new[key] and key not in ("data.root", "data.mirrors"):
                of = f"a run of {key}={old[key]}, not {new[key]}"
                raise UsageError(f"{self.run_dir}: {of}; choose another --name")
        saved = max(whole_epochs(self.run_dir).values(), default=0)
        return bool(summary and summary.finished and saved == summary.epochs)


def plan(
    source: str, overrides: Sequence[str], name: str | None = None, root: str | None = None
) -> list[Trial]:
    """The combinations of all values of overrides such as `seed=0,1,2`, the last varying fastest.

    A comma inside brackets belongs to a value. The runs lie in `runs/<name>`, by default
    `runs/<config's name>-sweep`. The data root beats the config's. A UsageError where nothing is
    varied, or a config is not valid.
    """
    options = {}
    for key, _, values in (override.partition("=") for override in overrides):
        apart = (value.strip() for value in re.split(r",(?![^\[\]]*\])", values))
        options[key] = list(dict.fromkeys(apart))  # a value that is repeated is trained once
    varied = [key for key, values in options.items() if len(values) > 1]
    if not varied:
        raise UsageError("nothing to vary: give a key several values, such as seed=0,1,2")
    short = dict(zip(short_keys(varied), varied, strict=True))
    trials = []
    for combination in product(*options.values()):
        chosen = dict(zip(options, combination, strict=True))
        texts = [f"{key}={value}" for key, value in chosen.items()]
        config = load_config(source, [*texts, *([f"data.root={json.dumps(root)}"] if root else [])])
        folder = ",".join(f"{n}={chosen[key]}" for n, key in short.items())
        run_dir = RUNS / (name or f"{config.name}-sweep") / re.sub(r"[^\w.,=+-]+", "-", folder)
        trials.append(Trial({key: chosen[key] for key in varied}, config, run_dir))
    return trials


def run_sweep(trials: Sequence[Trial], jobs: int, stop: Stop) -> Iterator[tuple[Trial, str, int]]:
    """Train what is not finished. Yields each trial with "finished", "diverged" or an error.

    After that comes the error's exit code, or 0. With one job an error ends the sweep.
    A StoppedError where a signal asked for it; what was being trained is saved.
    """
    waiting = [trial for trial in trials if not trial.finished]
    yield from ((trial, "finished", 0) for trial in trials if trial not in waiting)
    if jobs == 1:
        for trial in waiting:
            try:
                yield trial, _train(trial, stop), 0
            except StoppedError as error:
                raise StoppedError(error.exit_code - 128, GO_ON) from None
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mnist_mlp.runs.training", "sklearn.datasets"])
    resource_tracker.ensure_running()  # later, it would let signals through
    running: dict[Connection[Any, Any], tuple[Trial, Any]] = {}
    while waiting or running:
        while waiting and len(running) < jobs and not stop():
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(waiting[0], sender))
            # A signal is to end neither the server nor a process that is not ready for it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            sender.close()
            running[receiver] = (waiting.pop(0), process)
        ended = wait(list(running), timeout=0.2)
        for receiver in [receiver for receiver in running if receiver in ended]:
            trial, process = running.pop(receiver)
            try:
                how, code = receiver.recv()
            except EOFError:  # killed, for lack of memory for example
                how, code = "its process was lost", 9  # as LostProcessError
            process.join()
            yield trial, how, code
        if number := stop():
            for _, process in running.values():
                with suppress(ProcessLookupError):  # it has ended
                    os.kill(process.pid, number)
                process.join()
            raise StoppedError(number, GO_ON)


def _train(trial: Trial, stop: Stop) -> str:
    from mnist_mlp.runs.training import run_events

    try:
        list(run_events(trial.config, trial.run_dir, resume=trial.summary is not None, stop=stop))
    except DivergedError:
        return "diverged"
    return "finished"


def _work(trial: Trial, sender: Any) -> None:
    """Train one combination in a process of its own, and send how it ended.

    A closed terminal or Ctrl-C is told by the sweep alone. If the sweep is gone, this one saves and
    ends.
    """
    os.setsid()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the sweep prints
    with stop_requested() as stop:
        stop()  # from now on a signal is remembered
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

        def stop_or_left() -> int | None:
            sweep = multiprocessing.parent_process()
            return stop() or (None if sweep and sweep.is_alive() else signal.SIGTERM)

        try:
            how, code = _train(trial, stop_or_left), 0
        except (MnistMlpError, OSError) as error:
            how, code = str(error), getattr(error, "exit_code", 5)
    sender.send((how, code))


def groups(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row for each combination without its seed: mean and deviation over the finished seeds.

    `best` marks the highest mean validation accuracy.
    """
    rows: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        values = {key: value for key, value in trial.values.items() if key != "seed"}
        rows.setdefault(tuple(values.items()), []).append(trial)
    found = []
    for varied, members in rows.items():
        summaries = [member.summary for member in members if member.finished]
        row: dict[str, Any] = dict(varied) | {"finished": len(summaries), "of": len(members)}
        for split in ("validation", "test"):
            known = [a for s in summaries if (a := getattr(s, f"{split}_accuracy")) is not None]
            row[split] = statistics.fmean(known) if known else None
            row[f"{split}_deviation"] = statistics.stdev(known) if len(known) > 1 else None
        found.append(row)
    best = max((row["validation"] or 0 for row in found), default=0)
    return [row | {"best": bool(best) and row["validation"] == best} for row in found]

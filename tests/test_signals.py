"""Each test is a program of its own, since the handlers belong to a process."""

import signal
import subprocess
import sys

import pytest

from mnist_mlp.signals import STOP_SIGNALS

SETUP = (
    "import os, signal\n"
    "from mnist_mlp.signals import install_handlers, stop_requested\n"
    "def send(number): os.kill(os.getpid(), number)\n"
    "for number in (1, 2, 15): signal.signal(number, signal.SIG_DFL)\n"  # a parent may ignore them
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_ends_the_program_at_once(number: signal.Signals) -> None:
    process = run(f"install_handlers(); send({number:d}); print('still here')")
    assert process.returncode == 128 + number
    assert process.stdout == ""
    assert process.stderr == f"mnist-mlp: stopped by {number.name}\n"


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    process = run(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "install_handlers()\n"
        "with stop_requested() as stop: stop(); send(signal.SIGHUP); print(stop())\n"
    )
    assert (process.returncode, process.stdout) == (0, "None\n")


def test_the_first_signal_is_remembered_and_the_second_ends_the_program() -> None:
    process = run(
        "with stop_requested() as stop:\n"
        "    print(stop()); send(signal.SIGTERM); print(stop(), flush=True)\n"
        "    send(signal.SIGINT); print('still here')\n"
    )
    assert process.returncode == 130
    assert process.stdout == "None\n15\n"


def test_before_anything_was_asked_a_signal_ends_the_program() -> None:
    process = run("with stop_requested(): send(signal.SIGINT); print('still here')")
    assert (process.returncode, process.stdout) == (130, "")


def test_the_handlers_before_are_put_back() -> None:
    process = run(
        "before = [signal.getsignal(n) for n in (2, 15)]\n"
        "with stop_requested(): pass\n"
        "print(before == [signal.getsignal(n) for n in (2, 15)])\n"
    )
    assert process.stdout == "True\n"

"""Stop signals: end the program at once, or let training save a checkpoint first.

This module imports only the standard library, so that the handlers are installed before any slow
import. The default handler of SIGINT raises an exception, which can leave an import half done.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

STOP_SIGNALS = [signal.Signals[n] for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
"""Ctrl-C, `kill`, and a closed terminal, of which Windows has no signal."""

Stop = Callable[[], int | None]  # gives the number of the signal that asks to stop, or None
at_stop: list[Callable[[], object]] = []  # called before a signal ends the process at once


def install_handlers() -> None:
    """Make every stop signal end the process at once."""
    for number in _not_ignored():
        signal.signal(number, _stop_at_once)


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """Remember the first stop signal instead of ending; a second one ends the process at once.

    Yields a function that returns the number of the signal received, or None. Until its first
    call there is nothing to save yet, and a signal still ends the process at once.
    """
    received: list[int] = []
    asked = False

    def remember(number: int, _frame: object) -> None:
        if received or not asked:
            _stop_at_once(number)
        received.append(number)

    def requested() -> int | None:
        nonlocal asked
        asked = True
        return received[0] if received else None

    previous = {number: signal.signal(number, remember) for number in _not_ignored()}
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_at_once(number: int, _frame: object = None) -> NoReturn:
    with suppress(OSError):  # the terminal may be closed
        os.write(2, f"mnist-mlp: stopped by {signal.Signals(number).name}\n".encode())
    for clean_up in at_stop:
        with suppress(OSError):
            clean_up()
    os._exit(128 + number)


def _not_ignored() -> list[signal.Signals]:
    """The stop signals that the parent process does not ignore, as nohup and & have it do."""
    return [n for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]

"""Signals that ask the program to stop: at once, or after saving what it trains.

Only the standard library is imported here, so that the handlers are in place before anything that
takes long to import: an exception in the middle of an import can leave a module half loaded.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
"""What asks the program to save and stop."""
if hasattr(signal, "SIGHUP"):  # Windows has none
    STOP_SIGNALS.append(signal.SIGHUP)  # the terminal was closed


def stop_at_once(number: int, _frame: object = None) -> NoReturn:
    """A signal handler that ends the process, for when there is nothing to save."""
    with suppress(OSError):  # the terminal may be gone
        os.write(2, f"mnist-mlp: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def install_handlers() -> None:
    """Let every stop signal end the process, except those that the parent process ignores."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and & set it
            signal.signal(number, stop_at_once)


@contextmanager
def stop_requested() -> Iterator[Callable[[], int | None]]:
    """Remember the first stop signal instead of ending; the second one ends the process at once.

    Yields a function that returns the number of the signal received, or None. Until its first
    call there is nothing to save, and a signal still ends the process at once.
    """
    received: list[int] = []
    asked = False

    def remember(number: int, _frame: object) -> None:
        if received or not asked:
            stop_at_once(number)
        received.append(number)

    def requested() -> int | None:
        nonlocal asked
        asked = True
        return received[0] if received else None

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, remember)
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

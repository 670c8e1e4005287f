"""`python -m mnist_mlp` is `mnist-mlp`.

Little is imported here: a signal that comes while the rest is being imported must find its handler
in place, since an exception in the middle of an import breaks more than the import.
"""

import os
import signal
from contextlib import suppress
from typing import NoReturn

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
"""What asks the program to save and end."""
if hasattr(signal, "SIGHUP"):  # not on Windows
    STOP_SIGNALS.append(signal.SIGHUP)  # the terminal was closed


def end(number: int, _frame: object = None) -> NoReturn:
    """End the program at once for a signal, where there is nothing to save."""
    with suppress(OSError):  # the terminal may be gone
        os.write(2, f"mnist-mlp: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def main() -> None:
    """The console script."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and & set it
            signal.signal(number, end)
    from mnist_mlp.cli import main as run

    run()


if __name__ == "__main__":
    main()

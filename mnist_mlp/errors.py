"""The errors that the program reports in words, and the exit code of each.

A message is one or two lines: what is wrong, where, and what to do about it. An `OSError`, which
names its file by itself, needs no class here; its exit code is 5.
"""

import signal


class MnistMlpError(Exception):
    """The base class: the command line prints its message, without a traceback."""

    exit_code = 1

    def __init_subclass__(cls, exit_code: int | None = None) -> None:
        cls.exit_code = exit_code or cls.exit_code


class CheckFailedError(MnistMlpError):
    """The program checked its own results and found them wrong."""


class UsageError(MnistMlpError, exit_code=2):
    """A command line or a config that cannot be carried out."""


class ConfigError(UsageError):
    """An invalid config; the message has one line for each problem."""


class DataError(MnistMlpError, exit_code=3):
    """A data set is missing, was modified, or cannot be downloaded."""


class ImageError(MnistMlpError, exit_code=3):
    """An image file cannot be read, or no digit was found in it."""


class CheckpointError(MnistMlpError, exit_code=4):
    """A checkpoint is missing, is damaged, or was not written by this program."""


class DivergedError(MnistMlpError, exit_code=6):
    """The loss or a weight became infinite or NaN during training."""


class DeviceError(MnistMlpError, exit_code=7):
    """The requested device is not available."""


class RunInUseError(MnistMlpError, exit_code=8):
    """Another process is training in this run directory."""


class LostProcessError(MnistMlpError, exit_code=9):
    """Another process of a distributed job ended or cannot be reached."""


class StoppedError(MnistMlpError):
    """A signal stopped a run; its checkpoint was saved if it had made any update."""

    def __init__(self, signal_number: int, rest: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{rest}")
        self.exit_code = 128 + signal_number

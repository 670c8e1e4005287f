"""The errors that the program reports in words, and the exit code of each.

A message is one or two lines: what is wrong, where, and what to do about it.
"""

FILE_SYSTEM_EXIT_CODE = 5
"""The exit code for an `OSError`, which already names its file and needs no class here."""


class MnistMlpError(Exception):
    """The base class: the command line prints its message, without a traceback."""

    exit_code = 1


class CheckFailedError(MnistMlpError):
    """The program checked its own results and found them wrong."""


class UsageError(MnistMlpError):
    """A command line or a config that cannot be carried out."""

    exit_code = 2


class ConfigError(UsageError):
    """An invalid config; the message has one line for each problem."""


class DataError(MnistMlpError):
    """A data set is missing, was modified, or cannot be downloaded."""

    exit_code = 3


class ImageError(MnistMlpError):
    """An image file cannot be read, or no digit was found in it."""

    exit_code = 3


class CheckpointError(MnistMlpError):
    """A checkpoint is missing, is damaged, or was not written by this program."""

    exit_code = 4


class DivergedError(MnistMlpError):
    """The loss or a weight became infinite or NaN during training."""

    exit_code = 6


class DeviceError(MnistMlpError):
    """The requested device is not available."""

    exit_code = 7


class RunInUseError(MnistMlpError):
    """Another process is training in this run directory."""

    exit_code = 8


class LostProcessError(MnistMlpError):
    """Another process of a distributed job ended or cannot be reached."""

    exit_code = 9


class StoppedError(MnistMlpError):
    """A signal stopped a run; its checkpoint was saved if it had made any update."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

"""What can go wrong for a user, and the exit code of each.

An error's text is one or two lines: what is wrong, where, and what to do.
"""


class MnistMlpError(Exception):
    """The base of every error that is told in words and not as a traceback."""

    exit_code = 1


class CheckFailedError(MnistMlpError):
    """A check of the program against itself that did not hold."""


class UsageError(MnistMlpError):
    """A command line or a config that cannot be carried out."""

    exit_code = 2


class ConfigError(UsageError):
    """Every problem of one config, one line each."""


class DataError(MnistMlpError):
    """A data set that is missing, altered or cannot be fetched."""

    exit_code = 3


class ImageError(MnistMlpError):
    """A picture that cannot be read, or in which there is no digit to be found."""

    exit_code = 3


class CheckpointError(MnistMlpError):
    """A checkpoint that is missing, damaged or not ours."""

    exit_code = 4


class DivergedError(MnistMlpError):
    """A training run whose loss or weights stopped being finite numbers."""

    exit_code = 6


class DeviceError(MnistMlpError):
    """A device that was asked for and is not there."""

    exit_code = 7


class RunInUseError(MnistMlpError):
    """A run directory that another process is training in."""

    exit_code = 8


class LostProcessError(MnistMlpError):
    """A process of a job of several that ended, or cannot be reached."""

    exit_code = 9


class StoppedError(MnistMlpError):
    """A run stopped by a signal, saved where there was something to save."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


FILE_SYSTEM_EXIT_CODE = 5
"""The exit code of an `OSError`, which needs no class of ours: it names its file itself."""

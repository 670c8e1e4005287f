"""Which of several processes this is, as torchrun's environment variables say.

Without torchrun there is one process, of rank 0.
"""

import os


def processes() -> int:
    """The number of processes, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0)) if processes() > 1 else 0


def local_processes() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if processes() > 1 else 1

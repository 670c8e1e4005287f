"""`python -m mnist_mlp`, the same program as `mnist-mlp`."""

import atexit
import gc

from mnist_mlp.signals import install_handlers


def main() -> None:
    """Install the signal handlers, then import and run the command line."""
    install_handlers()
    # The imports make 300,000 objects and little garbage. Looking for it among them again and
    # again, and once more at the end, takes a third of a short command's time.
    gc.set_threshold(500_000)
    atexit.register(gc.freeze)
    from mnist_mlp.cli import main as run

    run()


if __name__ == "__main__":
    main()

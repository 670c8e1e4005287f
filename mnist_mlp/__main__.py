"""`python -m mnist_mlp`, the same program as `mnist-mlp`."""

import atexit
import gc

from mnist_mlp.signals import install_handlers


def main() -> None:
    """Install the signal handlers, then import and run the command line."""
    install_handlers()
    # The imports make 300,000 objects and no garbage. To look for some again and again, and at the
    # end, would take a third of a short command's time. A long one looks after 500,000 more.
    gc.set_threshold(500_000)
    atexit.register(gc.freeze)
    from mnist_mlp.cli import main as run

    run()


if __name__ == "__main__":
    main()

"""`python -m mnist_mlp`, the same program as `mnist-mlp`."""

from mnist_mlp.signals import install_handlers


def main() -> None:
    """Install the signal handlers, then import and run the command line."""
    install_handlers()
    from mnist_mlp.cli import main as run

    run()


if __name__ == "__main__":
    main()

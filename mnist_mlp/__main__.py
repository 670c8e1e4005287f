"""`python -m mnist_mlp` is `mnist-mlp`: the signal handlers first, then the command line."""

from mnist_mlp.signals import install_handlers


def main() -> None:
    """The console script."""
    install_handlers()
    from mnist_mlp.cli import main as run

    run()


if __name__ == "__main__":
    main()

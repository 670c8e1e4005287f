"""`python -m mnist_mlp` is `mnist-mlp`."""

from mnist_mlp.cli import main

main()

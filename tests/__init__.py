import mnist_mlp  # noqa: F401 - before torch is: it bounds how long torch's threads wait

import gc

import mnist_mlp  # noqa: F401 - before torch is: it bounds how long torch's threads wait

# The tests import half a million objects and make little garbage. By default Python looks for it
# for a tenth of their time.
gc.set_threshold(200_000)

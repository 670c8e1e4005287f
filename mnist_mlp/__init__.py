"""The reference trainer for the lesson's network: a 784-128-64-10 MLP that reads digits.

The public names, listed in `__init__.pyi`, are imported when they are first used, so that importing
the package is quick.
"""

import os

import lazy_loader

# PyTorch's OpenMP threads wait for each other by spinning. Where another program uses one of their
# cores, they spin on the core that the awaited thread needs: two threads are then up to 100 times
# slower than one, and with this limit 5 times. GNU's OpenMP reads it when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]

"""How Numba compiles the functions of `loop.py`, and keeps their machine code.

Numba keeps it in `__pycache__`, or in the user's cache folder, as Python keeps its own. It is a
pickle of code, the only pickle that is ever read.
"""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from filelock import FileLock
from numba.core import codegen, config, registry
from numba.core.compiler import CompilerBase, DefaultPassBuilder

Array = np.ndarray[Any, Any]
Function = TypeVar("Function", bound=Callable[..., Any])
# Numba compiles anew after a change of a function's own file, not of this one: change both.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "_nrt": False,  # no reference counts, since nothing is allocated: they take long to compile
    "error_model": "numpy",  # division by 0 gives infinity or nan
    "fastmath": {"reassoc", "contract", "nsz"},  # sums may be reordered; nan and infinity stay
}
_FEATURES: str = codegen.get_host_cpu_features()  # type: ignore[no-untyped-call]
# On Intel's CPUs LLVM avoids the widest registers of AVX-512, which slowed the clock of the first
# that had them. They are faster here. Other code that Numba compiles in this process has them too.
if vars(config)["CPU_FEATURES"] is None and "+avx512f" in _FEATURES:
    vars(config)["CPU_FEATURES"] = f"{_FEATURES},-prefer-256-bit"


def processor() -> str:
    """What code is compiled for: LLVM's name of the CPU, and a digest of its features."""
    _, name, features = registry.cpu_target.target_context.codegen().magic_tuple()
    return f"{name}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


class DisjointArrays(CompilerBase):
    """Numba's compiler, told that arrays do not overlap, which saves checking it in each loop."""

    def define_pipelines(self) -> list[Any]:
        """The usual passes."""
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]  # type: ignore[no-untyped-call]


_INNER = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner: Callable[[Function], Function] = numba.njit(**_INNER)
"""Compiles a function that only compiled functions call."""
inlined: Callable[[Function], Function] = numba.njit(**_INNER, inline="always")
"""Compiles a function as a part of those that call it, which is quicker to compile."""
disjoint: Callable[[Function], Function] = numba.njit(**_INNER, pipeline_class=DisjointArrays)
"""`inner`, for functions whose array arguments do not overlap."""


class CachedFunction:
    """A compiled function whose machine code is kept on disk, where that is possible."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        try:
            self.call: Any = numba.njit(cache=True, **OPTIONS)(function)
        except RuntimeError:  # no folder can be written to
            self.call = numba.njit(**OPTIONS)(function)

    def prepare(self, *arguments: Any) -> Any:
        """Call the function; compile it first, unless its machine code was kept."""
        folder = self.call.stats.cache_path
        # Numba does not lock: two starts at once could give the code of one to the other.
        lock = FileLock(Path(folder, "mnist-mlp.lock")) if folder else nullcontext()
        try:
            with lock:
                return self.call(*arguments)
        except Exception:  # what was kept is damaged, or the disk is full: do without
            with suppress(Exception):
                self.call._cache.flush()
            self.call = numba.njit(**OPTIONS)(self.function)
            return self.call(*arguments)

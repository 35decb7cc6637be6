"""Can kernels be made for a GPU here?"""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import cache


@cache
def makes_kernels() -> bool:
    """Are Triton and the C compiler that it needs here? Where they are not, a GPU runs torch's own kernels, one after the other."""
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(shutil.which(name) for name in compilers if name)

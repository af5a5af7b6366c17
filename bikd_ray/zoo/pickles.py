"""Arrays in a plain pickle (detectron2's .pkl), read without running code that it may carry."""

import pickle
from importlib import import_module
from typing import IO, Any

import numpy as np
import torch

ALLOWED = {
    *(("_codecs", "encode"), ("collections", "OrderedDict")),
    *(("numpy", kind) for kind in ("ndarray", "dtype", "bool_")),
    *(
        (f"numpy.{core}.{module}", function)
        for core in ("core", "_core")
        for module, function in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
    *(("builtins", kind) for kind in ("bool", "bytearray", "dict", "float", "int", "list")),
    *(("builtins", kind) for kind in ("set", "str", "tuple", "complex")),
}
"""All that an array and the plain values beside it are rebuilt by."""

TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a pickle begins that torch.save wrote before 1.6."""


def is_plain(head: bytes) -> bool:
    """Whether a file that begins so is a pickle, and none of torch's."""
    return head.startswith(b"\x80") and not head.startswith(TORCH)


def arrays_in(stream: IO[bytes]) -> object:
    """What a pickle holds, its numeric arrays as tensors.

    Raises pickle.UnpicklingError that names the first thing (GLOBAL module.name) that is no part
    of an array, before anything is called.
    """
    return _tensors(_Arrays(stream).load())


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 wrote it
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
        return getattr(import_module(module.replace("numpy.core", "numpy._core")), name)


def _tensors(value: object) -> object:
    if isinstance(value, dict):
        return {key: _tensors(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_tensors(inner) for inner in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        native = value.astype(value.dtype.newbyteorder("="))  # a copy that may be written to
        return torch.from_numpy(np.ascontiguousarray(native))
    return value

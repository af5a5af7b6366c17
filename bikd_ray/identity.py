"""Content ids: 16 hex digits over what determines a result, and over nothing else."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

RESULT_VERSION = 1
"""Raised when a change to the code changes what a job computes; part of every job_id."""


def _plain(value: object, where: str) -> object:
    """`value` as JSON types only, or a TypeError that names the part without a stable form."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}: only finite numbers have a stable id")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}: it has no stable serialisation")


def canonical(value: object) -> str:
    """`value` as JSON with sorted keys; equal values give equal text (1.0 equals 1)."""
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"))


def digest(*parts: object) -> str:
    """16 hex digits of SHA-256 over the canonical form of `parts`.

    Raises TypeError for values without a stable serialisation (sets, bytes, objects, NaN).
    """
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from `parts`, for one random stream that no other consumer shares."""
    return int(digest("seed", *parts), 16) >> 1

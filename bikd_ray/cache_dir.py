"""What a machine keeps between commands, and can always make again."""

import contextlib
import os
import secrets
import time
from pathlib import Path

ABANDONED = 3600
"""Seconds after which a file that was being written is nobody's: its writer was killed."""


def cache_root() -> Path:
    """The user's cache folder for this package ($XDG_CACHE_HOME/bikd_ray); it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "bikd_ray"


def usable_cpus() -> int:
    """CPUs that this process may use; where a system does not tell, those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def claim(descriptor: int, start: int, end: int) -> None:
    """Take the disk for a part of a sparse file now. Raises OSError where it is full.

    A system without posix_fallocate (macOS) gets zeros written there.
    """
    if allocate := getattr(os, "posix_fallocate", None):
        allocate(descriptor, start, end - start)
        return
    zeros = bytes(1 << 20)
    for at in range(start, end, len(zeros)):
        os.pwrite(descriptor, zeros[: end - at], at)


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file that others see whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def keep_file(path: Path, content: bytes) -> None:
    """Write a file that a person keeps: what was there before stays until this is whole.

    A link goes on to lead to it, permissions stay, and a device or pipe is written to directly.
    Raises OSError.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    mode = path.stat().st_mode if path.exists() else None
    replace_file(path, content)
    if mode is not None:
        path.chmod(mode & 0o7777)


def remove_abandoned(folder: Path, pattern: str = "*.tmp") -> None:
    """Remove the `.tmp` files that killed writers have left."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()

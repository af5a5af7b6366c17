"""A connection to Ray, and what ends it in good order."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence

from bikd_ray.sweep import quiet  # noqa: F401  # isort: skip  (before Ray)

import ray

from bikd_ray.errors import BikdError
from bikd_ray.specs import ZooEntry
from bikd_ray.sweep.code import environment


@contextlib.contextmanager
def connected(
    address: str | None, zoo: Sequence[ZooEntry] = (), *, ship: bool = False
) -> Iterator[bool]:
    """A connection to Ray for the length of the block; one that is there already is used.

    zoo: models, built here before, whose code is sent to the nodes. Yields whether nodes may come
    beside those that are there. Raises BikdError.
    """
    if ray.is_initialized():
        yield True
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(
            address=address,
            runtime_env=None if address == "local" else environment(zoo, ship=ship),
            include_dashboard=False if address == "local" else None,  # nobody looks at it
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        where = "this machine" if address == "local" else address
        raise BikdError(f"cannot reach Ray at {where}: {reason}") from None
    try:
        yield address != "local"
    finally:
        ray.shutdown()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends a sweep as Ctrl-C does: what is finished is stored, the rest is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ours(error: Exception, doing: str) -> BikdError:
    """The BikdError inside a task's error, or one line about what happened instead."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BikdError):
        return type(cause)(str(cause))
    last = str(cause or error).strip().splitlines()[-1]
    return BikdError(f"{doing}: {last}")

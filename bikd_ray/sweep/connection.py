"""A connection to Ray, and what ends it in good order."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from bikd_ray.sweep import ray_env  # noqa: F401  # isort: skip  (before Ray)

import grpc
import ray
from ray.autoscaler.sdk import request_resources
from ray.util import get_node_ip_address

from bikd_ray.errors import BikdError
from bikd_ray.specs import ZooEntry
from bikd_ray.sweep.ray_private import address_of_auto
from bikd_ray.sweep.runtime_env import environment

ANSWERS = 10.0
"""Seconds in which a cluster must accept a connection, and then speak as Ray does."""


@contextlib.contextmanager
def connected(
    address: str | None, zoo: Sequence[ZooEntry] = (), *, ship: bool = False
) -> Iterator[bool]:
    """A connection to Ray for the length of the block; one that is there already is used.

    zoo: models, built here before, whose code is sent to the nodes. Yields whether nodes may come
    beside those that are there. Raises BikdError, within a minute where nothing answers.
    """
    if ray.is_initialized():
        yield True
        return
    given, address = address, address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        _reach(address)
        ray.init(
            address=address,
            runtime_env=None if address == "local" else environment(zoo, ship=ship),
            include_dashboard=False if address == "local" else None,  # nobody looks at it
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        if address != "local" and not address.startswith("ray://"):  # a client cannot ask
            request_resources(bundles=[])  # of a sweep that was killed; one at work asks again
    except (OSError, ValueError, RuntimeError) as error:
        raise BikdError(_no_ray(error, address, given)) from None
    try:
        yield address != "local"
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """See that something answers where Ray will look for a cluster; Ray itself would wait for it.

    Raises OSError, or ValueError for an address of another form.
    """
    host_port = address_of_auto() if address == "auto" else address.removeprefix("ray://")
    if host_port is None or host_port == "local":
        return
    host, _, port = host_port.rpartition(":")
    if "://" in host_port:
        raise ValueError("that is an address for bikd submit; give HOST:PORT or ray://HOST:PORT")
    if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("an address is HOST:PORT, ray://HOST:PORT, auto or local")
    if host_port == address and host in ("localhost", "127.0.0.1", "::1", "[::1]"):
        host = get_node_ip_address()  # where Ray looks for it
        host_port = f"{host}:{port}"
    deadline = time.monotonic() + ANSWERS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWERS).close()
            break
        except ConnectionRefusedError:  # it may be about to start
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # to be told by its certificates
    with grpc.insecure_channel(host_port, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(ANSWERS)
        except grpc.FutureTimeoutError:
            raise ConnectionError("what listens there is no Ray cluster") from None


def _no_ray(error: Exception, address: str, given: str | None) -> str:
    said = getattr(error, "strerror", None) or next(iter(str(error).strip().splitlines()), "")
    reason = said or type(error).__name__
    if address != "local":
        left = "" if given else "; unset RAY_ADDRESS to start Ray on this machine"
        where = address if given else f"{address} ($RAY_ADDRESS)"
        return f"cannot reach Ray at {where}: {reason}{left}"
    if isinstance(error, OSError):
        folder = error.filename or os.environ.get("RAY_TMPDIR", "/tmp")
        return (
            f"cannot start Ray on this machine: {folder}: {reason}; set RAY_TMPDIR to a folder of "
            "your own with a short path"
        )
    return f"cannot start Ray on this machine: {reason}"


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, for the block to end in good order; a second one is
    raised as KeyboardInterrupt. Nothing sets it in another thread than the main one.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        event.set()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


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

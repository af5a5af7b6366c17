"""A Ray that cannot be reached or started is one line, soon."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from bikd_ray.errors import BikdError
from bikd_ray.sweep import connection
from bikd_ray.sweep.connection import connected, interruptible


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(connection, "ANSWERS", 0.3)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests' Ray may be there
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def closed() -> str:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def said(address: str | None) -> str:
    start = time.monotonic()
    with pytest.raises(BikdError) as raised, connected(address):
        pass
    assert time.monotonic() - start < 20
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_named(closed, scheme):
    line = said(scheme + closed)
    assert line == f"cannot reach Ray at {scheme}{closed}: Connection refused"


def test_an_address_that_was_left_over_says_where_it_comes_from(closed, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", closed)
    assert said(None) == (
        f"cannot reach Ray at {closed} ($RAY_ADDRESS): Connection refused; unset RAY_ADDRESS to "
        "start Ray on this machine"
    )
    assert "Connection refused" in said("auto")  # which takes that variable too


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "127.0.0.1:x", "127.0.0.1:99999", "nowhere"]
)
def test_what_is_no_address_is_refused(address):
    assert said(address).startswith(f"cannot reach Ray at {address}: ")


def test_who_listens_but_is_no_ray_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=server.accept, daemon=True).start()
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        assert said(address).endswith("what listens there is no Ray cluster")


def test_a_folder_that_ray_cannot_write_is_named(tmp_path):
    (tmp_path / "file").touch()
    code = "from bikd_ray.sweep.connection import connected\nwith connected(None): pass"
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path / "file")}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    line = ended.stderr.splitlines()[-1]
    assert f"BikdError: cannot start Ray on this machine: {tmp_path / 'file'}" in line
    assert "Not a directory; set RAY_TMPDIR to a folder of your own" in line


def test_the_first_ctrl_c_is_told_and_the_second_one_ends_at_once():
    before = signal.getsignal(signal.SIGINT)
    after = []

    def press_twice() -> None:
        with interruptible() as interrupted:
            assert not interrupted.is_set()
            os.kill(os.getpid(), signal.SIGINT)
            after.append(interrupted.is_set())
            os.kill(os.getpid(), signal.SIGINT)
            after.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert after == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_is_caught():
    seen = []

    def work() -> None:
        with interruptible() as interrupted:
            seen.append(interrupted.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]

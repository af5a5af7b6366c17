"""What a command says reaches its reader, or one line says why not; files that people keep stay."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bikd_pipelines import streams
from bikd_ray.cache_dir import keep_file

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def bikd(how: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command whose streams a shell has turned elsewhere."""
    command = f'"$@" {how}'
    run = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "bikd_pipelines", *arguments],
        capture_output=True,
        env={**os.environ, **variables},
        check=False,
    )
    return run.returncode, run.stdout.decode(), run.stderr.decode()


@FULL
@pytest.mark.parametrize("command", ["schema", "--help", "--version"])
def test_a_full_disk_is_one_line(command):
    code, _, err = bikd("> /dev/full", command)
    assert (code, err) == (1, "bikd: cannot write the answer: No space left on device\n")


def test_a_closed_output_is_one_line():
    code, _, err = bikd(">&-", "schema")
    assert (code, err) == (1, "bikd: cannot write the answer: standard output is closed\n")


@pytest.mark.parametrize("how", ["2>&-", pytest.param("2> /dev/full", marks=FULL)])
def test_an_answer_comes_also_where_errors_cannot_be_written(how):
    code, out, _ = bikd(how, "schema")
    assert code == 0
    assert out.rstrip().endswith("}")
    assert bikd(how, "partners", "a", "--store", "/nowhere")[0] == 2


def test_a_reader_that_goes_is_not_an_error_to_speak_of():
    code, _, err = bikd("| true; exit ${PIPESTATUS[0]}", "schema")  # it is gone long before
    assert (code, err) == (1, "")


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    code = (
        "import os, sys; from bikd_pipelines.streams import prepare; prepare(); "
        "print(min(os.open(os.devnull, os.O_RDONLY) for _ in 'abc') > 2, file=open('x', 'w'))"
    )
    run = f'cd {tmp_path}; exec "$0" -c "{code}" 0>&- 1>&- 2>&-'
    path = {"PYTHONPATH": str(Path(streams.__file__).parents[1])}
    subprocess.run(["bash", "-c", run, sys.executable], env={**os.environ, **path}, check=True)
    assert (tmp_path / "x").read_text() == "True\n"


def test_an_encoding_without_a_sign_shows_another():
    streams.prepare()
    assert "Δtop-1 ← ViT · 1 – é".encode("ascii", "plain") == b"dtop-1 < ViT | 1 - \\xe9"
    assert "κ é".encode("latin-1", "plain") == b"k \xe9"
    code, out, _ = bikd("", "schema", PYTHONIOENCODING="ascii")
    assert code == 0
    assert out.isascii()


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    kept = tmp_path / "report.html"
    kept.write_text("old")
    limited = (
        "import resource, sys; from pathlib import Path; from bikd_ray.cache_dir import keep_file; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "keep_file(Path(sys.argv[1]), bytes(5000))"
    )
    run = subprocess.run(
        [sys.executable, "-c", limited, kept], capture_output=True, text=True, check=False
    )
    assert "File too large" in run.stderr
    assert kept.read_text() == "old"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_kept_file_keeps_its_place_and_its_permissions(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    keep_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o600
    keep_file(Path("/dev/null"), b"nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)

"""`bikd submit`: a sweep as a Ray job on a running cluster, with the code that it needs."""

import asyncio
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bikd_ray.sweep import ray_env  # noqa: F401  # isort: skip  (before Ray)

from ray.job_submission import JobStatus, JobSubmissionClient

from bikd_ray import __version__
from bikd_ray.errors import BikdError, UserError
from bikd_ray.paths import escaped, expanded
from bikd_ray.spec_file import load_spec, read_mapping
from bikd_ray.specs import LOCAL_DIR
from bikd_ray.store.filesystem import store_uri
from bikd_ray.sweep.runtime_env import OURS, check_size, files_in, shipped

LEFT_OUT = (
    "safetensors pt pth ckpt bin onnx h5 npy npz pkl parquet arrow tar gz tgz bz2 xz zst zip "
    "jpg jpeg png webp tif tiff bmp gif mp4 whl so"
)
"""Endings of what is weights, images or data, and no code."""

LARGEST = 10 * 2**20
"""Bytes of a file that is still taken for code."""

SPEC = "bikd-spec.yaml"
"""The spec in the package, with its paths as the job sees them."""

RAYS_OWN = re.compile(r"\S+ \S+\s+INFO job_manager\.py|Running entrypoint for job ")
"""What Ray writes into a job's log before the job begins."""


@dataclass(frozen=True)
class Package:
    """What a job is sent: a folder's code as a zip file, and what its nodes must have besides."""

    zip: Path
    elsewhere: tuple[str, ...]  # local paths of the spec that do not go along


def store_of(spec_path: Path, given: str | None) -> str:
    """The store of a submitted sweep: a URI, or an absolute path that all nodes share.

    Raises UserError for a bad spec, and for a relative store: a folder that would go with the job.
    """
    load_spec(spec_path)  # says what is wrong with it
    own = read_mapping(spec_path).get("store")
    uri = store_uri(given, expanded(own) if own else None)
    if "://" not in uri and not Path(uri).is_absolute():
        raise UserError(
            f"store {uri} is relative, and a job has no folder that stays; give --store s3://…, "
            "gs://… or the absolute path of a mount that all nodes share"
        )
    return uri


def pack(spec_path: Path, store: str, target: Path) -> Package:
    """Zip the code around a spec into `target`: the folder where the person stands, if the spec
    lies in it, else the spec's own.

    Left out are data, weights, stores, environments, what git ignores, and files over LARGEST.
    Raises UserError for a bad spec, and for more than Ray takes.
    """
    spec, spec_path = load_spec(spec_path), spec_path.resolve()
    here = Path.cwd().resolve()
    root = here if here in spec_path.parents else spec_path.parent
    if hiding := [name for name in OURS if (root / name).exists() and not _is_ours(root)]:
        raise UserError(
            f"{root / hiding[0]} would hide bikd's own package of that name in the job; rename it, "
            "or submit from another folder"
        )
    files = [f for f in _candidates(root) if f.is_file() and not _left_out(f, Path(store))]
    check_size(files)
    packed = {str(path) for file in files for path in (file, *file.parents) if root in path.parents}
    value = spec.model_copy(update={"store": None}).model_dump(mode="json", exclude_defaults=True)
    elsewhere: list[str] = []
    text = yaml.safe_dump(_as_seen(value, root, packed, elsewhere), sort_keys=False)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as package:
        for file in files:
            package.write(file, file.relative_to(root))
        package.writestr(SPEC, text)
    return Package(target, tuple(dict.fromkeys(elsewhere)))


def _is_ours(root: Path) -> bool:
    return (root / "bikd_ray" / "sweep" / "runtime_env.py").exists()


def _candidates(root: Path) -> list[Path]:
    """The files of a folder: of a git work tree those that git does not ignore."""
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return sorted(files_in(root))
    return [root / os.fsdecode(name) for name in listed.split(b"\0") if name]


def _left_out(file: Path, store: Path) -> bool:
    kind = file.suffix.lower().removeprefix(".")
    return kind in LEFT_OUT.split() or store in file.parents or file.stat().st_size > LARGEST


def _as_seen(value: Any, root: Path, packed: set[str], elsewhere: list[str]) -> Any:
    """A spec's values, paths that go along taken from the package, the others noted."""
    if isinstance(value, dict):
        return {k: _as_seen(v, root, packed, elsewhere) for k, v in value.items()}
    if isinstance(value, list):
        return [_as_seen(v, root, packed, elsewhere) for v in value]
    if not isinstance(value, str):
        return value
    if not (at := value.removeprefix(LOCAL_DIR)).startswith("/"):
        return escaped(value) if "://" in value else value
    if (inside := at.partition(":")[0]) in packed:
        return escaped(value.replace(f"{root}/", "", 1))
    elsewhere.append(inside)
    return escaped(value)


def submit(
    spec_path: Path,
    *,
    store: str | None,
    address: str | None,
    options: Sequence[str] = (),
    ship: bool = False,
) -> tuple[JobSubmissionClient, str]:
    """Start `bikd sweep` of a spec as a Ray job; returns the client and the job's id.

    address: of the cluster's dashboard, such as http://127.0.0.1:8265; None takes Ray's own
    variables or a cluster on this machine. options: of `bikd sweep`. ship: send this package too.
    Raises UserError for what cannot be sent, BikdError where the cluster cannot be reached.
    """
    uri = store_of(spec_path, store)
    with tempfile.TemporaryDirectory() as scratch:
        package = pack(spec_path, uri, Path(scratch) / "code.zip")
        if package.elsewhere:
            print(
                f"bikd: every node must see {', '.join(package.elsewhere)}; of the folder only "
                "code is sent",
                file=sys.stderr,
            )
        environment: dict[str, Any] = {"working_dir": str(package.zip)}
        if ship:
            environment["py_modules"] = [str(path) for path in shipped()]
        name = load_spec(spec_path).name
        try:
            client = _client(address)
            job = client.submit_job(
                entrypoint=entrypoint(uri, options),
                runtime_env=environment,
                metadata={"name": f"bikd {name}"},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = address or "$RAY_ADDRESS or this machine"
            reason = " ".join(str(error).split())
            raise BikdError(f"cannot submit to {where}: {reason}") from None
    return client, job


def _client(address: str | None) -> JobSubmissionClient:
    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    if address:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers its variables to an argument
    return JobSubmissionClient(address)


def sweep_options(given: Mapping[str, object], *, retry_failed: bool = False) -> list[str]:
    """Words of a command line; given: options of `bikd sweep` by their names, None for unset."""
    words = [str(x) for name, v in given.items() if v is not None for x in (f"--{name}", v)]
    return [*words, *["--retry-failed"] * retry_failed]


def entrypoint(store: str, options: Sequence[str]) -> str:
    """The job's shell command: the sweep, once the cluster is seen to have this package."""
    sweep = ["exec", "python", "-m", "bikd_pipelines", "sweep", SPEC, "--address", "auto"]
    sweep += ["--store", escaped(store), *options]
    has = f"import sys, bikd_ray; sys.exit(bikd_ray.__version__ != {__version__!r})"
    says = (
        f"bikd: the cluster's head has no bikd-ray {__version__}, as the sender has; install it on "
        "every node, or submit with --ship"
    )
    return (
        f"python -c {shlex.quote(has)} 2>/dev/null || {{ echo {shlex.quote(says)}; exit 2; }}; "
        f"{shlex.join(sweep)}"
    )


def follow(client: JobSubmissionClient, job: str) -> bool:
    """Copy the job's log to standard error until it ends; returns whether it succeeded.

    A connection that breaks is taken up again where it broke. Raises BikdError where the cluster
    can no longer be reached.
    """
    seen, failures = 0, 0
    while True:
        try:
            seen = asyncio.run(_copy(client, job, seen))
            status = client.get_job_status(job)
            failures = 0
        except (ConnectionError, RuntimeError, OSError) as error:
            failures += 1
            if failures == 5:
                reason = " ".join(str(error).split())
                raise BikdError(f"lost sight of job {job}: {reason}") from None
            time.sleep(2**failures)
            continue
        if status.is_terminal():
            return status == JobStatus.SUCCEEDED


async def _copy(client: JobSubmissionClient, job: str, seen: int) -> int:
    """Print what of a job's log lies beyond `seen` characters; returns how many it has."""
    position = 0
    async for text in client.tail_job_logs(job):
        new = text[max(0, seen - position) :]
        position += len(text)
        said = "".join(x for x in new.splitlines(keepends=True) if not RAYS_OWN.match(x))
        print(said, end="", file=sys.stderr, flush=True)
    return max(seen, position)


def where_to_look(client: JobSubmissionClient, job: str, store: str) -> list[str]:
    """The commands that follow, stop and count what was submitted."""
    address = client.get_address()
    return [
        f"follow it: ray job logs --follow --address {address} {job}",
        f"stop it:   ray job stop --address {address} {job}",
        f"progress:  bikd status --store {shlex.quote(store)}",
    ]

"""The person's own code, such as their factories: Ray sends it to every node of a cluster."""

import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from bikd_ray.errors import UserError
from bikd_ray.specs import ZooEntry

OURS = ("bikd_ray", "bikd_pipelines", "bikd_dashboards")

MADE = "_remote_module_non_scriptable"
"""A module that torch writes into a temporary folder when it is imported."""

LARGEST_PACKAGE = int(os.environ.get("RAY_max_grpc_message_size", f"{512 * 2**20}"))  # noqa: SIM112
"""Bytes of code that Ray sends to a cluster at most: those of one message of it."""

SKIPPED = ("__pycache__", "node_modules", "venv", ".venv", ".git", ".mypy_cache", ".ruff_cache")
"""Folders that are nobody's code."""


def environment(zoo: Iterable[ZooEntry], *, ship: bool = False) -> dict[str, list[str]]:
    """The runtime environment that nodes need to build the models of a zoo, once those have been
    built here; nothing where all of it is installed.

    What factories have imported from folders goes along, each package whole; `ship` adds this
    package. Inside a Ray job nothing does: the job's environment has it.
    Raises UserError for more than Ray takes.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    own = own_code()
    used = {re.split("[.:]", entry.factory)[0] for entry in zoo if entry.factory}
    paths = list(own.values()) if used & own.keys() else []
    if ship:
        paths += shipped()
    check_size(f for p in paths for f in (files_in(p) if p.is_dir() else [p]))
    left_out = [f"{name}/" for name in SKIPPED]
    return {"py_modules": [str(p) for p in paths], "excludes": left_out} if paths else {}


def shipped() -> list[Path]:
    """The folders of this package: installed ones lie together, those of a checkout do not."""
    specs = [importlib.util.find_spec(name) for name in OURS]
    return [Path(spec.origin).parent for spec in specs if spec and spec.origin]


def own_code() -> dict[str, Path]:
    """Name to file or folder of the top-level modules that were imported from folders and not
    from an installation.
    """
    installed = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    found = {}
    for name, module in list(sys.modules.items()):
        where = getattr(module, "__file__", None) or next(iter(_search(module)), None)
        if where is None or "." in name or name in (*OURS, MADE, "__main__"):
            continue
        path = Path(where).resolve()
        path = path.parent if path.name == "__init__.py" else path
        away = not installed.isdisjoint(path.parents)
        if not away and not {"site-packages", "dist-packages"} & set(path.parts):
            found[name] = path
    return {n: p for n, p in found.items() if p.is_dir() or p.suffix == ".py"}


def _search(module: object) -> list[str]:
    """Where a package without __init__.py looks for its modules."""
    return list(getattr(module, "__path__", []))


def files_in(folder: Path) -> Iterator[Path]:
    """The files of a folder that may be code."""
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f not in SKIPPED]
        yield from (Path(where) / name for name in names)


def check_size(files: Iterable[Path]) -> None:
    """Refuse what Ray would not take. Raises UserError that names the largest files."""
    sizes = {file: file.stat().st_size for file in files if file.is_file()}
    total = sum(sizes.values())
    if total >= LARGEST_PACKAGE:
        largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
        named = ", ".join(f"{file} ({sizes[file] / 2**20:.0f} MiB)" for file in largest)
        raise UserError(
            f"the code to send to the cluster has {total / 2**20:.0f} MiB, and Ray takes "
            f"{LARGEST_PACKAGE / 2**20:.0f}; move elsewhere what is no code: {named}"
        )

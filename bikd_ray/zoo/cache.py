"""Models that were resolved before, remembered so that a command need not build them again.

Only what can be told from outside is remembered: timm's own names, and files by
inode, size and times (a copy that keeps its time of modification is another file).
Factories, torch hub and hf-hub entries may change without a sign, and are built each time.
"""

import contextlib
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pyarrow.fs as pafs

from bikd_ray.cache_dir import cache_root, replace_file
from bikd_ray.data.files import file_stamp
from bikd_ray.identity import RESULT_VERSION, digest
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import LOCAL_DIR, ZooEntry
from bikd_ray.tasks import DEFAULT
from bikd_ray.zoo.checkpoints import WEB, downloaded
from bikd_ray.zoo.containers import is_index
from bikd_ray.zoo.probe import PROBE_VERSION

_OTHER_WEIGHTS = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
"""Arguments of timm.create_model that name files or addresses of weights."""


def load_resolved(entry: ZooEntry, task: str = DEFAULT) -> ResolvedModel | None:
    """The model that `save_resolved` noted for this entry, unless something has changed since."""
    try:
        path = _path(entry, task)
        found = ResolvedModel.from_json(path.read_bytes()) if path else None
    except (OSError, TypeError, ValueError):  # no file, no stable form, damaged
        return None
    return replace(found, entry=entry) if found else None  # its alias may be another one now


def cache_path(entry: ZooEntry, task: str = DEFAULT) -> Path | None:
    """Where a model is remembered while its files are as they are now; None where it never is.

    To be taken before they are read, and given to `save_resolved`.
    """
    with contextlib.suppress(OSError, TypeError, ValueError):
        return _path(entry, task)
    return None


def save_resolved(model: ResolvedModel, before: Path | None = None, task: str = DEFAULT) -> None:
    """Note a resolved model; where that cannot be done it is resolved again next time.

    before: its `cache_path` before its files were read; of files that were written since it is not
    known which content was read.
    """
    with contextlib.suppress(OSError):
        path = _path(model.entry, task)
        if path and before in (None, path):
            replace_file(path, model.to_json().encode())


def _path(entry: ZooEntry, task: str) -> Path | None:
    if not entry.timm or _OTHER_WEIGHTS & entry.kwargs.keys():
        return None
    folder = entry.timm.startswith(LOCAL_DIR)
    elsewhere = ":" in entry.timm and not folder
    if elsewhere or is_index(entry.checkpoint or ""):  # whose shards may change
        return None
    stamps = []
    if folder:
        where = Path(entry.timm.removeprefix(LOCAL_DIR))
        files = sorted(f for f in where.iterdir() if f.is_file())
        stamps += [(f.name, _stamp(str(f))) for f in files]
    if entry.checkpoint:
        stamps.append(("checkpoint", _stamp(entry.checkpoint)))
    what = entry.model_dump(exclude={"alias"})
    own = () if task == DEFAULT else (task,)
    key = digest("known", RESULT_VERSION, PROBE_VERSION, version("timm"), what, stamps, *own)
    return cache_root() / "models" / f"{key}.json"


def _stamp(path: str) -> tuple[int, ...]:
    """What a write to a file cannot leave as it is. Raises OSError."""
    if path.startswith(WEB):
        path = str(downloaded(path))
    if "://" in path:
        filesystem, inner = pafs.FileSystem.from_uri(path)
        info = filesystem.get_file_info(inner)
        if not info.is_file:
            raise FileNotFoundError(path)
        return info.size, info.mtime_ns or 0
    return file_stamp(os.stat(path))

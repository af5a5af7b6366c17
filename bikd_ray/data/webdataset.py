"""Webdataset shards, as timm's `ReaderWds` reads them: members with one key are one sample."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import IO

import pyarrow.fs as pafs

from bikd_ray.data.files import expand, locate
from bikd_ray.data.tars import Member, TarImages, open_tar, scan
from bikd_ray.errors import UserError, choices
from bikd_ray.specs import TimmData

IMAGES = ("jpg", "png", "webp", "jpeg", "bmp", "ppm", "tif", "tiff")
"""Extensions in order of preference; timm's own three first."""
_INDEXERS = 16
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # up to the first dot of the base name
_SHARDS = re.compile(r"\.tar\b|\{.*\}")
"""In a split that lists shards; timm takes any with "tar" or ".." in it, so "target" too."""
_LABEL = TimmData.model_fields["label"].default


def webdataset(source: TimmData) -> TarImages:
    """Samples of shards in order: `KEY.jpg` (or another image) with `KEY.cls` or `KEY.json`.

    `path` is the shards; or a folder in which `split` names shards, or a split of its
    `_info.json`. The label is the integer in `.cls`; in `.json` it is the field `label` of the
    source, or the one that `_info.json` calls `alt_label`, and samples below 0 are left out.
    Raises UserError for shards that are missing or damaged, and samples without such a label.
    """
    uri, field = _shards(source)
    filesystem, paths, stamp = expand(uri, ".tar", "tar")

    def samples(number: int) -> list[tuple[Member, int]]:
        with open_tar(filesystem, paths[number]) as stream:
            return list(_samples(stream, paths[number], number, field))

    with ThreadPoolExecutor(_INDEXERS) as pool:
        found = [sample for part in pool.map(samples, range(len(paths))) for sample in part]
    if not found:
        raise UserError(
            f"data: no samples in {uri}; expected members KEY.jpg (or {', '.join(IMAGES[1:])}) "
            "and KEY.cls or KEY.json"
        )
    members, labels = zip(*found, strict=True)
    return TarImages(filesystem, paths, members, labels, None, stamp)


def _shards(source: TimmData) -> tuple[str, str | None]:
    """Where the shards are, and the JSON field of the label if it is not in `.cls`."""
    root, field = str(source.path), None if source.label == _LABEL else source.label
    if _SHARDS.search(source.split):
        listed = source.split.partition("|")[0].split("::")  # after | comes the count
        return "::".join(_within(root, shard) for shard in listed), field
    info = _info(root)
    if info is None:
        return root, field
    splits = info.get("splits", {})
    if source.split not in splits:
        raise UserError(
            f"data: {root} has no split {source.split!r}; {choices(source.split, splits)}"
        )
    split = splits[source.split]
    shards = "::".join(_within(root, shard) for shard in split["filenames"])
    return shards, field or split.get("alt_label") or None


def _within(root: str, name: str) -> str:
    """`name` in the folder `root`, whose URI may end in options after a question mark."""
    folder, mark, options = root.partition("?") if "://" in root else (root, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{options}"


def _info(root: str) -> dict | None:
    """What `_info.json` beside the shards says, if `root` is a folder that has one."""
    if "::" in root:
        return None
    for name in ("_info.json", "info.json"):
        try:
            filesystem, path = locate(_within(root, name))
            if filesystem.get_file_info(path).type != pafs.FileType.File:
                continue
            with filesystem.open_input_stream(path) as stream:
                return json.loads(stream.read())
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"data: cannot read {_within(root, name)}: {reason}") from None
    return None


def _samples(
    stream: IO[bytes], path: str, number: int, field: str | None
) -> Iterator[tuple[Member, int]]:
    """The image and label of each sample of a shard."""
    for key, parts in groupby(_parts(stream, path, number), key=lambda part: part[0]):
        where = f"data: {path}, sample {key}"
        members: dict[str, tuple[Member, bytes]] = {}
        for _, extension, member, text in parts:
            if extension in members:
                raise UserError(f"{where} has two members {member.name}; give each sample a key")
            members[extension] = member, text
        image = next((members[e][0] for e in IMAGES if e in members), None)
        if image is None and "cls" in members:
            raise UserError(f"{where} has a label but no image ({', '.join(IMAGES)})")
        if image is not None:
            label = _label(members, where, field)
            if label is not None:
                yield image, label


def _parts(stream: IO[bytes], path: str, number: int) -> Iterator[tuple[str, str, Member, bytes]]:
    """Key, extension, place and, of labels, the content of every member of a shard."""
    for info in scan(stream, path):
        named = _KEY.fullmatch(info.name)
        if not named:
            continue
        key, extension = named[1], named[2].lower()
        text = b""
        if extension in ("cls", "json"):
            stream.seek(info.offset_data)
            text = stream.read(info.size)
        yield key, extension, Member(info.name, number, info.offset_data, info.size), text


def _label(members: dict[str, tuple[Member, bytes]], where: str, field: str | None) -> int | None:
    """The label of a sample; None of one that its JSON leaves out."""
    kind = "cls" if "cls" in members and field is None else "json"
    field = field or _LABEL
    if kind not in members:
        raise UserError(f"{where} has no label; expected .cls, or .json with the field {field!r}")
    member, text = members[kind]
    value: object = text.decode(errors="replace").strip()
    if kind == "json":
        try:
            value = json.loads(text)[field]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{where}: {member.name} has no field {field!r}") from None
    try:
        label = int(value) if isinstance(value, int | str) else None
    except ValueError:
        label = None
    if label is None:
        raise UserError(f"{where}: {member.name} holds {value!r}; a label is an integer")
    return None if kind == "json" and label < 0 else label

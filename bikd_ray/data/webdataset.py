"""Webdataset shards, as timm's `ReaderWds` reads them: members with one key are one sample."""

import json
import re
from collections.abc import Iterator
from itertools import groupby

import pyarrow.fs as pafs

from bikd_ray.data.decode import EXTENSIONS
from bikd_ray.data.exclusions import is_hidden
from bikd_ray.data.files import locate
from bikd_ray.data.labels import NO_LABEL
from bikd_ray.data.tars import OpenTar, TarImages, TarMember, index_tars, scan
from bikd_ray.errors import UserError, choices
from bikd_ray.specs import TimmData, labelled

IMAGES = tuple(dict.fromkeys(("jpg", "png", "webp", *(e[1:] for e in EXTENSIONS))))
"""Extensions in order of preference; timm's own three first."""
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # up to the first dot of the base name
_SHARDS = re.compile(r"\.tar\b|\.\.")  # a split that lists shards
_LABEL = TimmData.model_fields["label"].default


def webdataset(source: TimmData) -> TarImages:
    """Samples of shards in order: `KEY.jpg` (or another image) with `KEY.cls` or `KEY.json`.

    `path` is the shards; or a folder in which `split` names shards, or a split of its
    `_info.json`. The label is the integer in `.cls`; in `.json` it is the field `label` of the
    source, or the one that `_info.json` calls `alt_label`, and samples below 0 are left out.
    Without labels the images are enough.
    Raises UserError for shards that are missing or damaged, and samples without such a label.
    """
    uri, field = _shards(source)
    tars, found = index_tars(uri, lambda tar: _samples(tar, field, known=labelled(source)))
    if not found:
        raise UserError(
            f"data: no samples in {uri}; expected members KEY.jpg (or another image's extension) "
            "and KEY.cls or KEY.json"
        )
    members, labels = zip(*found, strict=True)
    return TarImages(tars, members, labels, None)


def _shards(source: TimmData) -> tuple[str, str | None]:
    """Where the shards are, and the JSON field of the label if it is not in `.cls`."""
    root, field = str(source.path), None if source.label == _LABEL else source.label
    splits = _splits(root)
    if source.split in splits:
        split = splits[source.split]
        try:
            shards = "::".join(_within(root, shard) for shard in split["filenames"])
            return shards, field or split.get("alt_label") or None
        except (TypeError, KeyError, AttributeError):
            raise UserError(
                f"data: split {source.split!r} in {root}/_info.json has no list of filenames"
            ) from None
    if _SHARDS.search(source.split):
        listed = source.split.partition("|")[0].split("::")  # after | comes the count
        return "::".join(_within(root, shard) for shard in listed), field
    if splits:
        raise UserError(
            f"data: {root} has no split {source.split!r}; {choices(source.split, splits)}"
        )
    return root, field


def _within(root: str, name: str) -> str:
    """`name` in the folder `root`, whose URI may end in options after a question mark."""
    folder, mark, options = root.partition("?") if "://" in root else (root, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{options}"


def _splits(root: str) -> dict:
    """The splits of `_info.json` beside the shards, if `root` is a folder that has one."""
    if "::" in root:
        return {}
    for name in ("_info.json", "info.json"):
        try:
            filesystem, path = locate(_within(root, name))
            if filesystem.get_file_info(path).type != pafs.FileType.File:
                continue
            with filesystem.open_input_stream(path) as stream:
                return dict(json.loads(stream.read())["splits"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = "no splits" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise UserError(f"data: cannot read {_within(root, name)}: {reason}") from None
    return {}


def _samples(tar: OpenTar, field: str | None, *, known: bool) -> Iterator[tuple[TarMember, int]]:
    """The image and label of each sample of a shard."""
    for key, parts in groupby(_parts(tar), key=lambda part: part[0]):
        where = f"data: {tar.path}, sample {key}"
        members: dict[str, tuple[TarMember, bytes]] = {}
        for _, extension, member, text in parts:
            if extension in members:
                raise UserError(f"{where} has two members {member.name}; give each sample a key")
            members[extension] = member, text
        image = next((members[e][0] for e in IMAGES if e in members), None)
        if image is None and "cls" in members:
            raise UserError(f"{where} has a label but no image ({', '.join(IMAGES[:6])}, …)")
        if image is None:
            tar.left.add("sample{s} without an image", key)
            continue
        label = _label(members, where, field) if known else NO_LABEL
        if label is None:
            tar.left.add("sample{s} whose label is below 0", key)
        else:
            yield image, label


def _parts(tar: OpenTar) -> Iterator[tuple[str, str, TarMember, bytes]]:
    """Key, extension, place and, of labels, the content of every member of a shard."""
    stream, path, number, _, left = tar
    for info in scan(stream, path, left):
        if any(map(is_hidden, info.name.split("/"))):
            left.hidden(info.name)
            continue
        named = _KEY.fullmatch(info.name)
        if not named:
            left.other(info.name)
            continue
        key, extension = named[1], named[2].lower()
        text = b""
        if extension in ("cls", "json"):
            stream.seek(info.offset_data)
            text = stream.read(info.size)
        yield key, extension, TarMember(info.name, number, info.offset_data, info.size), text


def _label(
    members: dict[str, tuple[TarMember, bytes]], where: str, field: str | None
) -> int | None:
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

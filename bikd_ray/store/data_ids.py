"""Rows of stores that named a data set by its files' names and sizes, known again by content.

Version 1 took names, sizes and labels for the identity of a data set. Where a store holds rows
under such an id, the first images that fit it are noted beside the tables by their content; from
then on those alone answer to it, and other pixels under the same names are another data set.
"""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from bikd_ray.errors import BikdError, UserError
from bikd_ray.identity import digest
from bikd_ray.store.read import Reader, pc

if TYPE_CHECKING:
    from bikd_ray.plan import ResolvedData

FOLDER = "ids"


def as_stored(data: "ResolvedData", reader: Reader) -> tuple["ResolvedData", str | None]:
    """A data set under the id that the store's rows about it have, and what a person should know.

    Raises BikdError where the store cannot be read.
    """
    known = set(reader.table("baselines", ["data_id"])["data_id"].to_pylist())
    listing = (data.train.listing_id, data.val.listing_id)
    first_id = digest("data", *listing, data.num_classes)
    if data.data_id in known or first_id not in known:
        return data, None
    if data.train.renumbered or data.val.renumbered:
        return data, (
            f"the store has results for these images under {first_id}, with the classes in another "
            "order: they stay there, and nothing is taken from them"
        )
    path, note = f"{FOLDER}/data-{first_id}.json", None
    try:
        content = json.loads(reader.fs.read(path))["content"]
    except FileNotFoundError:
        content, note = data.data_id, _noted(reader, path, data.data_id)
    if content != data.data_id:
        return data, (
            f"the store has results for other images with these names and sizes ({first_id}): "
            "they are not mixed with those of this data"
        )
    samples = digest("samples", data.val.listing_id)
    return replace(data, data_id=first_id, unit_set_id=samples), note


def refuse_other_sets(data: "ResolvedData", reader: Reader) -> None:
    """Raises UserError for a further set whose name the store has for other images."""
    rows = reader.committed("baselines").select(["data_id", "eval_set", "unit_set_id"])
    mine = rows.filter(pc.equal(rows["data_id"], data.data_id)).group_by(rows.column_names)
    for row in mine.aggregate([]).to_pylist():
        name, part = row["eval_set"], data.eval.get(row["eval_set"])
        if part is not None and part.unit_set_id != row["unit_set_id"]:
            raise UserError(
                f"data.eval.{name}: the store {reader.fs.uri} has other images, labels or classes "
                "under this name; choose another name for this set"
            )


def _noted(reader: Reader, path: str, content: str) -> str | None:
    """Write down whose id it is; what to say where the store can only be read."""
    try:
        reader.fs.write(path, json.dumps({"content": content}).encode())
    except BikdError as error:
        return f"that these images are those of the store's results could not be noted ({error})"
    return None

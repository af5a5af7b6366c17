"""docs/spec.md: every field of a spec, from the classes that read it.

python -m bikd_pipelines.reference > docs/spec.md
"""

import inspect
import json
from typing import Any

from pydantic import BaseModel

from bikd_ray.specs import (
    LOGGER_OPTIONS,
    OPTIONS,
    PRESETS,
    ClipsData,
    Data,
    DigitScenesData,
    DigitsData,
    FolderData,
    FrameWindow,
    FurtherDigits,
    FurtherFolder,
    FurtherParquet,
    FurtherTimm,
    GrownNode,
    Improve,
    Input,
    Logger,
    MaskFoldersData,
    MaskParquetData,
    MovingDigitsData,
    Objective,
    Pairings,
    ParquetData,
    Probe,
    Recipe,
    Resources,
    Search,
    SegmentationLayoutData,
    Spec,
    TimmData,
    ZooEntry,
)

HEAD = """\
# Every field of a spec

<!-- Made by `python -m bikd_pipelines.reference`: change the classes in bikd_ray/specs instead. -->

A spec is one YAML file. Only `zoo` and `data` are required; the other defaults are the paper's. A
field that is not in these tables is refused, with the nearest name that is. `~` and `$VAR` are
expanded in paths, and relative paths start at the spec's folder. Fields `x-…` at the top are left
out: they can hold YAML anchors. `bikd schema` prints the same as a JSON Schema, with which editors
complete and check a spec.
"""

SECTIONS: dict[type[BaseModel], str] = {
    Spec: "The whole spec",
    ZooEntry: "A model of the zoo",
    Input: "A model's input",
    FrameWindow: "A window of frames",
    Data: "Data",
    FolderData: "Data source folder",
    ParquetData: "Data source parquet",
    TimmData: "Data source timm",
    DigitsData: "Data source digits",
    ClipsData: "Data source clips",
    MovingDigitsData: "Data source moving_digits",
    MaskFoldersData: "Data source mask_folders",
    MaskParquetData: "Data source mask_parquet",
    SegmentationLayoutData: "Data sources ade20k, cityscapes and voc",
    DigitScenesData: "Data source digit_scenes",
    FurtherFolder: "Further set folder",
    FurtherParquet: "Further set parquet",
    FurtherTimm: "Further set timm",
    FurtherDigits: "Further set digits",
    Probe: "A probe",
    Search: "Search",
    Improve: "Improve",
    Pairings: "Pairings",
    Objective: "An objective",
    Recipe: "Recipe",
    Resources: "Resources",
    GrownNode: "A node that a cluster may grow by",
    Logger: "A logger",
}
"""The classes that a spec is made of, under the headings by which other pages link to them."""

_PLURAL = {"integer": "integers", "number": "numbers", "text": "texts"}


def spec_reference() -> str:
    """The whole page as Markdown. Raises LookupError for a class that has no heading here."""
    schema = Spec.model_json_schema()
    classes = {cls.__name__: cls for cls in SECTIONS}
    if missing := sorted({"Spec", *schema["$defs"]} ^ set(classes)):
        raise LookupError(f"SECTIONS and the classes of a spec differ in {', '.join(missing)}")
    parts = [HEAD]
    for cls, heading in SECTIONS.items():
        one = schema if cls is Spec else schema["$defs"][cls.__name__]
        parts += [f"## {heading}\n", f"{_intro(cls)}\n", _table(one), *_more(cls)]
    return "\n".join(parts)


def _intro(cls: type[BaseModel]) -> str:
    """A class's docstring; of the whole spec's only what is not for callers from Python."""
    text = inspect.getdoc(cls) or ""
    return text.split("\n\n")[0] if cls is Spec else text


def _table(schema: dict[str, Any]) -> str:
    lines = ["| field | takes | default | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        needed = name in schema.get("required", ())
        cells = (
            f"`{name}`",
            _takes(field),
            "**required**" if needed else _default(field.get("default")),
            _escaped(field["description"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _takes(field: dict[str, Any]) -> str:
    """What values a field has, from its JSON Schema."""
    sides = field.get("anyOf") or field.get("oneOf")
    if sides:
        return " or ".join(_takes(side) for side in sides if side.get("type") != "null")
    if "$ref" in field:
        return _link(field["$ref"])
    if "enum" in field or "const" in field:
        return " · ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"{len(field['prefixItems'])} {_each(field['prefixItems'][0])}"
    kind: str = field["type"]
    if kind == "array":
        return f"list of {_each(field['items'])}"
    if kind == "object":
        return "mapping"
    return {"string": "text", "boolean": "`true` · `false`"}.get(kind, kind) + _bounds(field)


def _each(items: dict[str, Any]) -> str:
    of = _takes({**items, "minLength": 0})
    return _PLURAL.get(of.split()[0], of) if "prefixItems" not in items else f"pairs of {of[2:]}"


def _bounds(field: dict[str, Any]) -> str:
    signs = {
        ">": ("exclusiveMinimum", "gt"),
        "≥": ("minimum", "ge"),
        "<": ("exclusiveMaximum", "lt"),
        "≤": ("maximum", "le"),
    }
    found = [
        f"{sign} {field[key]:g}" for sign, keys in signs.items() for key in keys if key in field
    ]
    return f" {', '.join(found)}" if found else ""


def _link(ref: str) -> str:
    heading = next(h for cls, h in SECTIONS.items() if cls.__name__ == ref.rpartition("/")[2])
    anchor = heading.lower().replace("'", "").replace(",", "").replace(" ", "-")
    return f"[{heading.lower()}](#{anchor})"


def _default(value: Any) -> str:
    """Objects, alone or in a list, have defaults of their own in another table."""
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, dict):
        return "its defaults"
    if isinstance(value, list) and isinstance(value[0], dict):
        return f"`[{value[0]['name']}]`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("{", "&#123;")


def _more(cls: type[BaseModel]) -> list[str]:
    """What a class's own table cannot say."""
    if cls is Objective:
        rows = [
            (name, ", ".join(f"`{o}`" for o in takes) or "–") for name, takes in OPTIONS.items()
        ]
        return [_two("objective", "settings that it takes", rows)]
    if cls is Recipe:
        rows = [
            (name, ", ".join(f"`{k}: {v}`" for k, v in changed.items()) or "the defaults")
            for name, changed in PRESETS.items()
        ]
        return [_two("preset", "what it sets", rows)]
    if cls is Logger:
        rows = [(name, ", ".join(f"`{o}`" for o in t)) for name, t in LOGGER_OPTIONS.items()]
        return [_two("logger", "settings that it takes", rows)]
    return []


def _two(first: str, second: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {first} | {second} |", "|---|---|", *(f"| `{a}` | {b} |" for a, b in rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(spec_reference(), end="")

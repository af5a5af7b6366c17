"""Reading a spec: YAML to a Spec, every mistake in it as one line in its writer's words."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from bikd_ray.errors import UserError, choices
from bikd_ray.specs import (
    LOGGER_OPTIONS,
    Data,
    DigitsData,
    FolderData,
    Input,
    Logger,
    Objective,
    Pairings,
    ParquetData,
    Recipe,
    Resources,
    Spec,
    TimmData,
    ZooEntry,
)

KINDS: dict[str, type[BaseModel]] = {
    "folder": FolderData,
    "parquet": ParquetData,
    "timm": TimmData,
    "digits": DigitsData,
}
"""Data sources by the value of `source`."""

Model = TypeVar("Model", bound=BaseModel)

LOCAL_DIR = "local-dir:"
"""What timm puts before the folder of a model in the Hugging Face layout."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, where plain YAML forgets the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"{key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_spec(path: str | Path) -> Spec:
    """Read a YAML spec.

    Relative paths in it (checkpoints, data, cache, store) are taken from the spec's folder.
    Raises UserError with one line for each mistake: the field, the value, the choices.
    """
    path = Path(path)
    return parse_spec(_mapping(path), base=path.parent.resolve(), name=str(path))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the spec {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not YAML: not UTF-8 text") from None
    try:
        value = yaml.load(text, _UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{at}: not YAML: {problem}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a spec is a YAML mapping with at least zoo: and data:")
    return value


def parse_spec(value: dict[str, Any], *, base: Path | None = None, name: str = "spec") -> Spec:
    """A spec from plain values; relative paths are taken from `base`. Raises UserError."""
    try:
        spec = Spec.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_context=True)
        # a list is also called too short when the fault is in its items
        said = [e for e in found if e["type"] != "too_short" or e["input"] in ([], ())]
        explained = [_explain(e, value).splitlines() for e in said or found]
        lines = [f"{name}: {line}" for part in explained for line in part]
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    return _absolute(spec, base) if base else spec


@dataclass(frozen=True)
class Parts:
    """What of a spec can be looked at, however many mistakes are in the rest."""

    spec: Spec | None  # where there is no mistake
    zoo: tuple[ZooEntry, ...]
    data: Data | None
    problems: tuple[str, ...]


def load_parts(path: str | Path) -> Parts:
    """Read a spec with its mistakes, and the models and data that have none.

    Raises UserError for a file that is not a YAML mapping.
    """
    path = Path(path)
    value, base = _mapping(path), path.parent.resolve()
    try:
        spec = parse_spec(value, base=base, name=str(path))
        return Parts(spec, spec.zoo, spec.data, ())
    except UserError as error:
        problems = tuple(str(error).splitlines())
    listed = value.get("zoo")
    entries = [_valid(ZooEntry, raw) for raw in (listed if isinstance(listed, list) else [])]
    data = _valid(Data, value.get("data"))
    zoo = tuple(_absolute_entry(e, base) for e in entries if e)
    return Parts(None, zoo, _absolute_data(data, base) if data else None, problems)


def _valid(kind: type[Model], value: Any) -> Model | None:
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None


def _absolute(spec: Spec, base: Path) -> Spec:
    changed = {
        "zoo": tuple(_absolute_entry(e, base) for e in spec.zoo),
        "data": _absolute_data(spec.data, base),
        "loggers": tuple(_absolute_logger(logger, base) for logger in spec.loggers),
        "store": _local(spec.store, base) if spec.store else None,
    }
    return spec.model_copy(update=changed)


def _local(path: str, base: Path) -> str:
    return path if "://" in path or Path(path).is_absolute() else str(base / path)


def _absolute_entry(entry: ZooEntry, base: Path) -> ZooEntry:
    changed = {"alias": entry.name}  # what pairings call it, whatever becomes of its path
    if entry.checkpoint:
        changed["checkpoint"] = _local(entry.checkpoint, base)
    if entry.timm and entry.timm.startswith(LOCAL_DIR):
        changed["timm"] = LOCAL_DIR + _local(entry.timm.removeprefix(LOCAL_DIR), base)
    if entry.hub and (base / entry.hub.partition(":")[0]).is_dir():
        changed["hub"] = _local(entry.hub, base)
    return entry.model_copy(update=changed)


def _absolute_logger(logger: Logger, base: Path) -> Logger:
    if "dir" not in LOGGER_OPTIONS[logger.name]:
        return logger
    return logger.model_copy(update={"dir": _local(logger.dir, base)})


def _absolute_data(data: Data, base: Path) -> Data:
    changed: dict[str, Any] = {}
    for split in ("train", "val"):
        source = getattr(data, split)
        paths = {name: getattr(source, name, None) for name in ("path", "labels")}
        local = {name: _local(path, base) for name, path in paths.items() if path}
        changed[split] = source.model_copy(update=local)
    if isinstance(data.classes, str):
        changed["classes"] = _local(data.classes, base)
    if data.cache not in ("auto", "none"):
        changed["cache"] = _local(data.cache, base)
    return data.model_copy(update=changed)


def _explain(error: Any, value: Any) -> str:
    """One pydantic error as one line in the words of the spec's writer."""
    loc = error["loc"]  # names the kind of a data source after its split
    parts = [p for i, p in enumerate(loc) if not (p in KINDS and loc[i - 1] in ("train", "val"))]
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")
    kind, context = error["type"], error.get("ctx", {})
    got = error["input"]
    if kind == "extra_forbidden":
        parent = where.rpartition(".")[0]
        known = _fields_at(Spec, parts[:-1], value)
        of = f" of {parent}" if parent else ""
        return f"{where}: unknown field{of}; {choices(parts[-1], known)}"
    if kind == "missing":
        parent = where.rpartition("[" if where.endswith("]") else ".")[0]
        return f"{where}: missing; {parent or 'every spec'} needs it"
    if kind in ("literal_error", "union_tag_invalid"):
        raw = context.get("expected") or context.get("expected_tags") or ""
        known = [w.strip(" '\"") for w in raw.replace(" or ", ",").split(",")]
        tag = kind == "union_tag_invalid"
        field = f"{where}.source" if tag else where
        value = context.get("tag", got)
        return f"{field}: unknown value {value!r}; {choices(value, known)}"
    if kind == "too_short":
        return f"{where} must list at least {context['min_length']}, got {got!r}"
    if kind == "string_pattern_mismatch":
        form = "OWNER/REPO[@REF]:ENTRY" if parts[-1] == "hub" else "package.module:function"
        return f"{where} must be {form}, got {got!r}"
    if kind == "union_tag_not_found":
        return f"{where}: missing source; choose from {', '.join(KINDS)}"
    if kind == "value_error":
        reason = str(context["error"])
        return f"{where}: {reason}" if where else reason
    message = error["msg"].replace("Input should be", "must be").replace("input", "value")
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", message)
    message = message.replace("valid tuple", "list")
    bound = message[0].lower() + message[1:]
    return f"{where} {bound}, got {got!r}" if bound.startswith("must be") else f"{where}: {bound}"


def _at(value: Any, parts: list[str | int]) -> Any:
    for part in parts:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return value
    return value


def _fields_at(model: type[BaseModel], parts: list[str | int], value: Any) -> list[str]:
    """The field names of the model that stands at `parts` in a Spec."""
    nested: dict[str, type[BaseModel]] = {
        "zoo": ZooEntry,
        "input": Input,
        "data": Data,
        "pairings": Pairings,
        "objectives": Objective,
        "recipe": Recipe,
        "resources": Resources,
        "loggers": Logger,
    }
    names = [p for p in parts if isinstance(p, str)]
    if names and names[-1] in ("train", "val"):
        kind = _at(value, [*parts, "source"])
        return list(KINDS[kind].model_fields) if kind in KINDS else ["source", "path"]
    return list((nested[names[-1]] if names else model).model_fields)

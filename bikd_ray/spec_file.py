"""Reading a spec: YAML to a Spec, every mistake in it as one line in its writer's words."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError

from bikd_ray.errors import UserError, choices
from bikd_ray.specs import (
    LOGGER_OPTIONS,
    ClipsData,
    Data,
    DigitScenesData,
    DigitsData,
    FolderData,
    FrameWindow,
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
    Reading,
    Recipe,
    Resources,
    Search,
    SegmentationLayoutData,
    Spec,
    TimmData,
    ZooEntry,
)
from bikd_ray.tasks import DEFAULT, check_name

KINDS: dict[str, type[BaseModel]] = {
    "folder": FolderData,
    "parquet": ParquetData,
    "timm": TimmData,
    "digits": DigitsData,
    "clips": ClipsData,
    "moving_digits": MovingDigitsData,
    "mask_folders": MaskFoldersData,
    "mask_parquet": MaskParquetData,
    "ade20k": SegmentationLayoutData,
    "cityscapes": SegmentationLayoutData,
    "voc": SegmentationLayoutData,
    "digit_scenes": DigitScenesData,
}
"""Data sources by the value of `source`."""

Model = TypeVar("Model", bound=BaseModel)

MOST_VALUES = 1_000_000
"""Values of a spec, each counted as often as an alias brings it in."""

SHOWN = 80
"""Characters of a wrong value that a message shows."""

LONGEST = 1000
"""Characters of a message."""

_OF_YAML_1_1 = ("int", "float", "timestamp")

IGNORED = "x-"
"""What the names of fields at the top begin with that only hold anchors."""


class _Loader(yaml.SafeLoader):
    """Numbers as YAML 1.2 has them, and no dates.

    PyYAML follows YAML 1.1, to which 1e-6 is text, 010 is 8, 1:30 is 90 and 2024-01-01 a date.
    """


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0].rpartition(":")[2] not in _OF_YAML_1_1]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0|[1-9][0-9_]{0,99}|0x[0-9a-fA-F]{1,64})$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|[-+]?[0-9]+[eE][-+]?[0-9]+$"
        r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def _check_nodes(root: yaml.Node | None) -> None:
    """Refuse keys given twice or that are no text, aliases that hold themselves, and those that
    bring in more than MOST_VALUES. Raises yaml.YAMLError.
    """
    counted: dict[int, int] = {}  # id of a node -> values in it, 0 while it is being counted

    def refused(problem: str, node: yaml.Node) -> yaml.YAMLError:
        return ComposerError(None, None, problem, node.start_mark)

    def count(node: yaml.Node) -> int:
        if id(node) in counted:
            if not counted[id(node)]:
                raise refused("an alias here holds itself", node)
            return counted[id(node)]
        counted[id(node)] = 0
        inside: list[yaml.Node] = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise refused("the name of a field must be text", key)
                if (key.tag, key.value) in seen:
                    raise refused(f"{key.value!r} is given twice", key)
                seen.add((key.tag, key.value))
                inside.append(value)
        total = 1 + sum(count(value) for value in inside)
        if total > MOST_VALUES:
            raise refused(f"aliases make this more than {MOST_VALUES:,} values", node)
        counted[id(node)] = total
        return total

    if root is not None:
        count(root)


def load_spec(path: str | Path) -> Spec:
    """Read a YAML spec.

    Relative paths in it (checkpoints, data, cache, store) are taken from the spec's folder.
    Raises UserError with one line for each mistake: the field, the value, the choices.
    """
    path = Path(path)
    return parse_spec(read_mapping(path), base=path.parent.resolve(), name=str(path))


def with_goal(
    spec: Spec,
    goal: str | None = None,
    regret: float | None = None,
    share: float | None = None,
) -> Spec:
    """The spec with what a command line says of its goal. Raises UserError."""
    given = {"regret": regret, "share": share}
    search = {name: value for name, value in given.items() if value is not None}
    if search and (goal or spec.goal) != "best_partner":
        raise UserError(
            f"{' and '.join(f'--{name}' for name in search)}: only a search for best partners has "
            f"it, and the goal is {goal or spec.goal}; add --goal best_partner, or leave it out"
        )
    if goal is None and not search:
        return spec
    value = spec.model_dump(exclude_unset=True)
    value["search"] = {**value.get("search", {}), **search}
    value["goal"] = goal or spec.goal
    try:
        return Spec.model_validate(value)
    except ValidationError as error:
        lines = [line for one in error.errors() for line in _explain(one, value).split("\n")]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def read_mapping(path: Path) -> dict[Any, Any]:
    """The plain values of a YAML file. Raises UserError for one that is not a mapping."""
    try:
        text = _text(path.read_bytes())
        loader = _Loader(text)
        root = loader.get_single_node()
        _check_nodes(root)
        value = None if root is None else loader.construct_document(root)
    except OSError as error:
        raise UserError(f"cannot read the spec {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: not {error.encoding.upper()} text") from None
    except RecursionError:
        raise UserError(f"{path}: not YAML that can be read: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{at}: not YAML: {_printable(problem)}") from None
    except Exception as error:  # `!!int x`, `!!timestamp x`, …: each tag fails in its own way
        problem = f"a value does not fit its tag ({_printable(str(error))})"
        raise UserError(f"{path}: not YAML: {problem}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a spec is a YAML mapping with at least zoo: and data:")
    return value


def _text(content: bytes) -> str:
    """UTF-8, or UTF-16 where a byte order mark says so. Raises UnicodeDecodeError."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def parse_spec(value: dict[Any, Any], *, base: Path | None = None, name: str = "spec") -> Spec:
    """A spec from plain values; relative paths are taken from `base`. Raises UserError."""
    value = {k: v for k, v in value.items() if not (isinstance(k, str) and k.startswith(IGNORED))}
    try:
        spec = Spec.model_validate(value, context=Reading(base))
    except ValidationError as error:
        found = error.errors(include_context=True)
        # a list is also called too short when the fault is in its items
        said = [e for e in found if e["type"] != "too_short" or e["input"] in ([], ())]
        explained = [_explain(e, value).split("\n") for e in said or found]
        lines = [f"{name}: {_cut(line, LONGEST)}" for part in explained for line in part]
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    return spec.model_copy(update={"loggers": tuple(_beside(x, base) for x in spec.loggers)})


def _beside(logger: Logger, base: Path | None) -> Logger:
    """A logger whose folder of runs lies in `base`, if it has one that the spec does not name."""
    if base is None or "dir" in logger.model_fields_set or "dir" not in LOGGER_OPTIONS[logger.name]:
        return logger
    return logger.model_copy(update={"dir": str(base / logger.dir)})


@dataclass(frozen=True)
class Parts:
    """What of a spec can be looked at, however many mistakes are in the rest."""

    spec: Spec | None  # where there is no mistake
    zoo: tuple[ZooEntry, ...]
    data: Data | None
    problems: tuple[str, ...]
    task: str = DEFAULT


def load_parts(path: str | Path) -> Parts:
    """Read a spec with its mistakes, and the models and data that have none.

    Raises UserError for a file that is not a YAML mapping.
    """
    path = Path(path)
    value, base = read_mapping(path), path.parent.resolve()
    try:
        spec = parse_spec(value, base=base, name=str(path))
        return Parts(spec, spec.zoo, spec.data, (), spec.task)
    except UserError as error:
        problems = tuple(str(error).splitlines())
    listed = value.get("zoo")
    raw_entries = listed if isinstance(listed, list) else []
    entries = [_valid(ZooEntry, raw, base) for raw in raw_entries]
    data = _valid(Data, value.get("data"), base)
    task = value.get("task", DEFAULT)
    try:
        check_name(task if isinstance(task, str) else "")
    except UserError:  # it is among the problems
        task = DEFAULT
    return Parts(None, tuple(e for e in entries if e), data, problems, task)


def _valid(kind: type[Model], value: Any, base: Path) -> Model | None:
    try:
        return kind.model_validate(value, context=Reading(base))
    except ValidationError:
        return None


def _printable(text: str) -> str:
    """One line of text without control characters, cut to SHOWN characters."""
    return _cut(text if text.isprintable() else repr(text), SHOWN)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _shown(value: Any) -> str:
    try:
        return _printable(repr(value))
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__} too long to show"


def _where(parts: Sequence[Any]) -> str:
    steps = (f"[{p}]" if isinstance(p, int) else f".{_printable(str(p))}" for p in parts)
    return "".join(steps).removeprefix(".")


def _explain(error: Any, value: Any) -> str:
    """One pydantic error as one line in the words of the spec's writer."""
    loc = error["loc"]  # names the kind of a data source after its split
    parts = [p for i, p in enumerate(loc) if not (p in KINDS and _is_source(loc[:i]))]
    where = _where(parts)
    kind, context = error["type"], error.get("ctx", {})
    got = error["input"]
    if kind == "extra_forbidden":
        parent = _where(parts[:-1])
        known = _fields_at(Spec, parts[:-1], value)
        of = f" of {parent}" if parent else ""
        return f"{where}: unknown field{of}; {choices(parts[-1], known)}"
    if kind == "missing":
        parent = _where(parts[:-1])
        return f"{where}: missing; {parent or 'every spec'} needs it"
    if kind in ("literal_error", "union_tag_invalid"):
        raw = context.get("expected") or context.get("expected_tags") or ""
        known = [w.strip(" '\"") for w in raw.replace(" or ", ",").split(",")]
        tag = kind == "union_tag_invalid"
        field = f"{where}.source" if tag else where
        value = context.get("tag", got)
        near = value if isinstance(value, str) else ""
        return f"{field}: unknown value {_shown(value)}; {choices(near, known)}"
    if kind == "too_short":
        return f"{where} must list at least {context['min_length']}, got {_shown(got)}"
    if kind == "string_pattern_mismatch":
        form = "OWNER/REPO[@REF]:ENTRY" if parts[-1] == "hub" else "package.module:function"
        return f"{where} must be {form}, got {_shown(got)}"
    if kind == "union_tag_not_found":
        return f"{where}: missing source; choose from {', '.join(KINDS)}"
    if kind == "value_error":
        return _with_value(where, str(context["error"]), got)
    message = error["msg"].replace("Input should be", "must be").replace("input", "value")
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", message)
    message = message.replace("valid tuple", "list")
    bound = message[0].lower() + message[1:]
    return (
        f"{where} {bound}, got {_shown(got)}"
        if bound.startswith("must be")
        else f"{where}: {bound}"
    )


def _with_value(where: str, reason: str, got: Any) -> str:
    if reason.startswith("must be"):
        return f"{where} {reason}, got {_shown(got)}"
    return f"{where}: {reason}" if where else reason


def _at(value: Any, parts: list[str | int]) -> Any:
    for part in parts:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return value
    return value


def _is_source(parts: Sequence[Any]) -> bool:
    """Whether a data source stands at `parts`."""
    return parts[-1:] in (("train",), ("val",)) or parts[-2:-1] == ("eval",)


def _fields_at(model: type[BaseModel], parts: list[str | int], value: Any) -> list[str]:
    """The field names of the model that stands at `parts` in a Spec."""
    nested: dict[str, type[BaseModel]] = {
        "zoo": ZooEntry,
        "input": Input,
        "window": FrameWindow,
        "data": Data,
        "search": Search,
        "improve": Improve,
        "pairings": Pairings,
        "objectives": Objective,
        "recipe": Recipe,
        "resources": Resources,
        "autoscaler": GrownNode,
        "loggers": Logger,
    }
    names = [p for p in parts if isinstance(p, str)]
    if len(names) == 2 and names[0] == "probe":  # whatever it is called
        return list(Probe.model_fields)
    if _is_source(tuple(names)):
        kind = _at(value, [*parts, "source"])
        known = list(KINDS[kind].model_fields) if kind in KINDS else ["source", "path"]
        return [*known, "classes"] if names[-2] == "eval" else known
    return list((nested[names[-1]] if names else model).model_fields)

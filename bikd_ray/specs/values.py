"""The kinds of values that a spec is made of: numbers, texts, paths, and frozen models."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from bikd_ray.paths import expanded, located


class Frozen(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @field_validator("*", mode="after")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        """No control characters in any text: paths, names and messages are single lines."""
        if odd := next((c for text in _texts(value) for c in text if _is_control(c)), None):
            raise ValueError(f"holds the control character {odd!r}; remove it")
        return value


def _is_control(character: str) -> bool:
    """Also lone surrogates, and separators of lines and paragraphs."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _texts(value: Any) -> Iterator[str]:
    """The texts of a field; those in mappings are of other fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_LEAST, _MOST = -(2**63), 2**63 - 1
"""Of a whole number: the store's columns are int64."""


def number(value: Any) -> Any:
    """A number as it is or as text; to Python and pydantic a boolean is one too, but not here."""
    if isinstance(value, bool):
        raise ValueError("must be a number, and a boolean is none")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        # Python converts no thousands of digits
        value = float(value) if set(value) & set(".eE") else int(value[:100])
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise ValueError("must be between -2**63 and 2**63 - 1")
    return value


def _plain(value: Any, where: str = "") -> Any:
    """Keyword arguments in the types that JSON has: a model's identity is made of them."""
    said = f"{where} must be" if where else "must be"
    if isinstance(value, dict):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise ValueError(f"{said} a mapping from text, and {str(odd[0])[:40]} is none")
        dot = f"{where}." if where else ""
        return {_plain(k): _plain(v, dot + k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str) and any(map(_is_control, value)):
        raise ValueError(f"{said} without control characters, got {value[:40]!r}")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{said} a finite number, got {value}")
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise ValueError(f"{said} between -2**63 and 2**63 - 1")
    if not (value is None or isinstance(value, str | float | int)):
        raise ValueError(
            f"{said} text, a number, a list or a mapping, got a {type(value).__name__}"
        )
    return value


def _named_values(value: Any) -> Any:
    """Names that are no text are told here, where they can be called by their name."""
    return _plain(value) if isinstance(value, dict) else value


Kwargs = Annotated[dict[str, Any], BeforeValidator(_named_values)]
Int = Annotated[int, BeforeValidator(number)]
Float = Annotated[float, BeforeValidator(number)]
"""Every number of a spec is one of these two."""


@dataclass(frozen=True)
class Reading:
    """The context in which a spec is validated when a person's own text is read.

    base: what relative paths are taken from; None leaves them. Without this context paths are
    values that were read before, and stay as they are.
    """

    base: Path | None


def in_base(path: str, info: ValidationInfo) -> str:
    return located(path, info.context.base) if isinstance(info.context, Reading) else path


def cache_in_base(cache: str, info: ValidationInfo) -> str:
    """Of a setting that is auto, none or a folder."""
    return cache if cache in ("auto", "none") else in_base(cache, info)


def _in_base_each(paths: str, info: ValidationInfo) -> str:
    if not all(paths.split("::")):
        raise ValueError(f"{paths!r} has nothing before or after a '::'; remove the '::'")
    return "::".join(in_base(path, info) for path in paths.split("::"))


def only_expanded(uri: str, info: ValidationInfo) -> str:
    return expanded(uri) if isinstance(info.context, Reading) else uri


Located = Annotated[str, Field(min_length=1), AfterValidator(in_base)]
"""A path or URI: `~` and `$VAR` are expanded, and it is relative to the spec's folder."""
LocatedEach = Annotated[str, Field(min_length=1), AfterValidator(_in_base_each)]
"""Several of them, joined by `::`."""
Positive = Annotated[Float, Field(gt=0)]


def named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]

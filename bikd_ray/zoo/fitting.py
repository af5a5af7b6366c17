"""Which tensors of a checkpoint are the model's: under what key, below what prefix.

No list of wrappers decides it. A prefix is whatever stands before the model's own names, and a
state is taken where torch itself, loading it, misses nothing and finds nothing too much.
"""

import copy
import re
import sys
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import filterfalse
from typing import Any

import torch
from torch import Tensor, nn

COUNTERS = {"n_averaged", "steps", "total_ops", "total_params", "num_batches_tracked"}
"""Last parts of names that count something: averaged steps, a profiler's operations, batches."""

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that torch's wrappers of modules add, inside a network too."""

NOT_WEIGHTS = re.compile(
    r"(\w+_)?(criterion|criteria|loss|losses|loss_fn|loss_func|metrics?|optimizers?)(_\w+)?\."
)
"""First parts of names of modules that take part in training alone."""

EMA = re.compile(r"(^|[-._])ema([-._]|$)", re.IGNORECASE)
EMA_KEYS = ("state_dict_ema", "model_ema")  # timm's order
PLAIN_KEYS = ("", "state_dict", "model", "model_state_dict")

HOLDERS = (dict, list, tuple)
DEEPEST = 8
"""How many dicts a state may lie in."""


@dataclass(frozen=True)
class State:
    """Tensors of one dict of a file, with the module versions that torch wrote beside them."""

    path: str  # dotted, of the dict in the file
    tensors: Mapping[str, Tensor]
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointFit:
    """A state under the model's names, or the nearest to it, and what is between the two."""

    path: str
    prefix: str
    tensors: Mapping[str, Tensor]
    versions: Mapping[str, int]
    left: tuple[str, ...] = ()  # names in the file that are not the model's
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shaped: tuple[tuple[str, Tensor, Tensor], ...] = ()  # name, the file's, the model's
    failed: str = ""  # what loading raised
    resized: tuple[tuple[str, Tensor, Tensor], ...] = ()
    filtered: bool = False
    small: bool = False

    @property
    def good(self) -> bool:
        return not (self.missing or self.unexpected or self.shaped or self.failed or self.small)

    @property
    def where(self) -> str:
        """Key and prefix in the file's words; empty for plain names at the top."""
        parts = [f"'{self.path}'"] if self.path else []
        if self.prefix:
            parts.append(f"prefix '{self.prefix}'")
        return ", ".join(parts)

    @property
    def rank(self) -> tuple[int, int, int]:
        """What is taken first where several fit: averaged weights, then timm's order of keys."""
        if EMA.search(self.path) or EMA.search(self.prefix):
            return 0, _place(self.path, EMA_KEYS), len(self.prefix) > 0
        own = self.prefix in ("", "model.", "module.")
        return 1, _place(self.path, PLAIN_KEYS), not own


def _place(path: str, order: tuple[str, ...]) -> int:
    return order.index(path) if path in order else len(order)


def states_in(content: object) -> Iterator[State]:
    """Every dict in what a file holds that has tensors under names of its own."""
    seen: set[int] = set()
    waiting: deque[tuple[str, object, int]] = deque([("", content, 0)])
    while waiting:
        path, value, depth = waiting.popleft()
        if not isinstance(value, HOLDERS) or id(value) in seen or depth > DEEPEST:
            continue
        seen.add(id(value))
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        if isinstance(value, dict):
            tensors = {str(k): v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
            if tensors:
                yield State(path, tensors, _versions(value))
        waiting.extend(
            (f"{path}.{k}" if path else str(k), v, depth + 1)
            for k, v in items
            if isinstance(v, HOLDERS)
        )


def _versions(state: dict[Any, Any]) -> dict[str, int]:
    """The versions of modules by their names, from the `_metadata` of a state_dict."""
    noted = getattr(state, "_metadata", None)
    if not isinstance(noted, dict):
        return {}
    return {
        name: about["version"]
        for name, about in noted.items()
        if isinstance(name, str)
        and isinstance(about, dict)
        and isinstance(about.get("version"), int)
    }


class Fitter:
    """Tries states against a model without writing to it.

    arch: the name of a timm architecture, whose own filter of checkpoints may rename tensors and
    resize its position embeddings.
    """

    def __init__(self, model: nn.Module, arch: str | None = None) -> None:
        self.model = model
        self.own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
        self.filters = _filters(arch) if arch else ()
        tensors = [*model.parameters(), *model.buffers()]
        try:  # of no memory: only what a module does with names and shapes is asked of it
            memo: dict[int, Any] = {id(t): _meta(t) for t in tensors}
            self.probe: nn.Module | None = copy.deepcopy(model, memo)
        except Exception:  # the person's code; some networks cannot be copied
            self.probe = None

    def fits(self, states: list[State], *, given: bool) -> list[CheckpointFit]:
        """All fits, the one to take first; where there is none, the nearest misses.

        States with names of the model's go first; one of these that fits is enough.

        given: the prefix is the person's own, so a small part of a file is what they mean.
        """
        tried: list[CheckpointFit] = []
        # an optimizer has a state for each weight: asked of a large model, they take seconds
        for some in (filter(self._knows, states), filterfalse(self._knows, states)):
            tried += [fit for state in some for fit in self._of_state(state, given)]
            if good := sorted((fit for fit in tried if fit.good), key=lambda fit: fit.rank):
                return good
        return sorted(tried, key=self._distance)

    def _knows(self, state: State) -> bool:
        """Whether a state has one of the model's names, whatever stands before it."""
        return any(True for name in state.tensors for _ in self._endings(name))

    def _distance(self, fit: CheckpointFit) -> tuple[int, tuple[int, int, int]]:
        wrong = len(fit.missing) + len(fit.unexpected) + len(fit.shaped)
        return wrong, fit.rank

    def _of_state(self, state: State, given: bool) -> Iterator[CheckpointFit]:
        """The state below each prefix that most of the model's names stand behind."""
        counted = Counter(
            name[: len(name) - len(own)] for name in state.tensors for own in self._endings(name)
        )
        most = max(counted.values(), default=0)
        prefixes = [p for p, n in counted.items() if 2 * n > most]
        prefixes += [p for p in _common(state.tensors) if p not in prefixes]
        fits = [self._below(state, prefix) for prefix in prefixes]
        good = [fit for fit in fits if fit.good]
        if not good and (inner := self._unwrapped(state)):
            unwrapped = list(self._of_state(inner, given))
            # where neither fits, a person knows the names of the file
            yield from unwrapped if any(fit.good for fit in unwrapped) else [*fits, *unwrapped]
            return
        if good and not given:
            left = _size(v for k, v in state.tensors.items() if all(k in f.left for f in good))
            good = [replace(f, small=left > _size(f.tensors.values())) for f in good]
        yield from good or fits

    def _unwrapped(self, state: State) -> State | None:
        """The state without the wrappers that its names have and the model's have not."""
        added = WRAPPERS - {part for name in self.own for part in name.split(".")}

        def inner(name: str) -> str:
            return ".".join(part for part in name.split(".") if part not in added)

        tensors = {inner(k): v for k, v in state.tensors.items()}
        if tensors.keys() == state.tensors.keys() or len(tensors) < len(state.tensors):
            return None
        return State(state.path, tensors, {inner(k): v for k, v in state.versions.items()})

    def _endings(self, name: str) -> Iterator[str]:
        """The ends of a name that are names of the model's."""
        at = 0
        while at >= 0:
            ending = name[at:]
            if ending in self.own:
                yield ending
            dot = name.find(".", at)
            at = dot + 1 if dot >= 0 else -1

    def _below(self, state: State, prefix: str) -> CheckpointFit:
        tensors = {k[len(prefix) :]: v for k, v in state.tensors.items() if k.startswith(prefix)}
        left = tuple(k for k in state.tensors if not k.startswith(prefix))
        versions = {
            k[len(prefix) :]: v for k, v in state.versions.items() if f"{k}.".startswith(prefix)
        }
        fit = self._tried(CheckpointFit(state.path, prefix, tensors, versions, left))
        if fit.good:
            return fit
        if both := self._with_head(fit, state):
            return both
        for filter_fn in self.filters:
            if found := self._filtered(fit, filter_fn):
                return found
        return fit

    def _tried(self, fit: CheckpointFit) -> CheckpointFit:
        """The fit with what loading its tensors would say; what counts or scores is left out."""
        out = [k for k in fit.tensors if k not in self.own and _beside(k)]
        tensors = {k: v for k, v in fit.tensors.items() if k not in out}
        shaped = [
            (k, v, self.own[k])
            for k, v in tensors.items()
            if k in self.own and not _copies(v, self.own[k])
        ]
        fit = replace(
            fit, tensors=tensors, left=fit.left + tuple(fit.prefix + k for k in out), shaped=()
        )
        if shaped:
            same = {k: v for k, v in tensors.items() if k not in {name for name, *_ in shaped}}
            missing, unexpected, failed = self._loaded(same, fit.versions)
            missing = [k for k in missing if k not in tensors]
        else:
            missing, unexpected, failed = self._loaded(tensors, fit.versions)
        return replace(
            fit,
            missing=tuple(missing),
            unexpected=tuple(unexpected),
            shaped=tuple(shaped),
            failed=failed,
        )

    def _loaded(
        self, tensors: Mapping[str, Tensor], versions: Mapping[str, int]
    ) -> tuple[list[str], list[str], str]:
        """What torch finds missing and unexpected, with what modules themselves think optional."""
        if self.probe is None:
            missing = [k for k in self.own if k not in tensors and not k.endswith("_tracked")]
            return missing, [k for k in tensors if k not in self.own], ""
        try:
            state = with_versions({k: _meta(v) for k, v in tensors.items()}, versions)
            with warnings.catch_warnings(action="ignore"):  # of defaults that are not on meta
                found = self.probe.load_state_dict(state, strict=False)
        except Exception as error:  # a module's own loading
            return [], [], str(error)
        missing = [k for k in found.missing_keys if k in self.own]  # not a module's extra state
        return missing, list(found.unexpected_keys), ""

    def _with_head(self, fit: CheckpointFit, state: State) -> CheckpointFit | None:
        """The fit with what it misses below one other prefix: a backbone and a head, saved as one.

        Nothing else may be in the state: a layer between the two would be lost.
        """
        if not fit.missing or fit.shaped or fit.unexpected or fit.failed or not fit.prefix:
            return None
        lost = fit.missing[0]
        others = [k[: -len(lost)] for k in fit.left if k.endswith(f".{lost}")]
        if len(others) != 1:
            return None
        other = others[0]
        added = {k[len(other) :]: state.tensors[k] for k in fit.left if k.startswith(other)}
        if not set(fit.missing) <= set(added) or set(added) & set(fit.tensors):
            return None
        left = tuple(k for k in fit.left if not k.startswith(other))
        both = self._tried(replace(fit, tensors={**fit.tensors, **added}, left=left, missing=()))
        if not both.good or not all(_beside(k) for k in left):
            return None
        return replace(both, prefix=f"{fit.prefix}' and '{other}")

    def _filtered(self, fit: CheckpointFit, filter_fn: Callable[..., Any]) -> CheckpointFit | None:
        """The fit after timm's own filter of the architecture, where that makes it one."""
        before = dict(fit.tensors)
        try:
            try:
                after = filter_fn(dict(before), self.model)
            except TypeError:  # some take the state alone
                after = filter_fn(dict(before))
        except Exception:  # it is made for other files
            return None
        if not isinstance(after, dict) or not all(isinstance(v, Tensor) for v in after.values()):
            return None
        found = self._tried(replace(fit, tensors=after))
        of_file = {_memory(v) for v in before.values()}
        resized = tuple(
            (k, before[k], v)
            for k, v in found.tensors.items()
            if k in before and before[k].numel() != v.numel() and _memory(v) not in of_file
        )
        if not found.good or not all("pos" in k or "rel_" in k for k, *_ in resized):
            return None  # a patch embedding of another size is another architecture
        kept = {_memory(v) for v in after.values()}
        gone = {k for k, *_ in resized}
        left = tuple(
            fit.prefix + k for k, v in before.items() if _memory(v) not in kept and k not in gone
        )
        if len(kept - of_file) != len(resized):  # joined or cut: what was used cannot be told
            left = ()
        if any(k.endswith((".weight", ".bias")) for k in left):
            return None  # a layer that the model has not got
        return replace(found, left=found.left + left, resized=resized, filtered=True)


def with_versions(tensors: Mapping[str, Tensor], versions: Mapping[str, int]) -> OrderedDict:
    """A state_dict that tells each module's loading the version that wrote it."""
    state = OrderedDict(tensors)
    state._metadata = {name: {"version": v} for name, v in versions.items()}  # type: ignore[attr-defined]
    return state


def same(a: CheckpointFit, b: CheckpointFit) -> bool:
    """Whether two fits hold equal tensors."""
    return a.tensors.keys() == b.tensors.keys() and all(
        v.dtype == b.tensors[k].dtype and torch.equal(v, b.tensors[k]) for k, v in a.tensors.items()
    )


def _filters(arch: str) -> tuple[Callable[..., Any], ...]:
    """The functions by which timm takes other people's checkpoints of an architecture."""
    import timm

    if not timm.is_model(arch):
        return ()
    module = sys.modules[timm.model_entrypoint(arch).__module__]
    return tuple(
        value
        for name, value in vars(module).items()
        if "filter_fn" in name and callable(value) and value.__module__ == module.__name__
    )


def _common(names: Mapping[str, Tensor]) -> list[str]:
    """The prefixes that all names share, part by part, from none on; counters aside."""
    left = [name for name in names if name.rpartition(".")[2] not in COUNTERS]
    prefix, found = "", []
    while left:
        found.append(prefix)
        first = left[0][len(prefix) :].partition(".")
        prefix += first[0] + first[1]
        if not first[1] or not all(name.startswith(prefix) for name in left):
            break
    return found


def _beside(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS or bool(NOT_WEIGHTS.match(name))


def _copies(found: Tensor, own: Tensor) -> bool:
    """Whether torch copies one into the other without a loss of meaning."""
    scalar = own.ndim == 0 and found.shape == (1,)  # of torch before 0.4
    kind = found.is_floating_point() or not own.is_floating_point()
    return (found.shape == own.shape or scalar) and kind and not found.is_sparse


def _meta(tensor: Tensor) -> Tensor:
    on_meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(on_meta, requires_grad=tensor.requires_grad)
    return on_meta


def _memory(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)

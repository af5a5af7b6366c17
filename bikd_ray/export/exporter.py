"""From a stored result to a folder that a person takes home."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from bikd_ray.errors import BikdError, UserError
from bikd_ray.export.card import Base, card
from bikd_ray.export.folder import (
    CARD,
    check_free,
    check_loads,
    new_folder,
    write_config,
    write_weights,
)
from bikd_ray.export.guard import check, limits
from bikd_ray.export.licence import is_non_commercial
from bikd_ray.export.origin import origin
from bikd_ray.export.select import select_result
from bikd_ray.export.summary import SelectedResult
from bikd_ray.formatting import difference, digits_of, plain
from bikd_ray.store import Store
from bikd_ray.zoo import rebuild


@dataclass(frozen=True)
class ExportRequest:
    """Which result of a model to take; what is None is chosen as `choose` says."""

    model: str
    partner: str | None = None
    job: str | None = None
    objective: str | None = None
    selection: str = "last"
    seed: int | None = None

    def command(self, store: str, out: Path, *, allow_worse: bool, guard: str | None = None) -> str:
        """The command line of this request."""
        given = {
            "--partner": self.partner,
            "--job": self.job,
            "--objective": self.objective,
            "--selection": self.selection if self.selection != "last" else None,
            "--seed": self.seed,
            "--guard": guard,
            "--store": store,
            "--out": out,
        }
        words = ["bikd", "export", self.model]
        for option, value in given.items():
            words += [] if value is None else [option, str(value)]
        return shlex.join([*words, *(["--allow-worse"] if allow_worse else [])])


@dataclass(frozen=True)
class Exported:
    """Where an exported model lies, which result it is, and what its taker should know."""

    folder: Path
    choice: SelectedResult
    notes: tuple[str, ...]


def export_model(
    store: Store,
    request: ExportRequest,
    out: Path,
    *,
    allow_worse: bool = False,
    guard: str | None = None,
    made_by: str,
) -> Exported:
    """Write the model of a stored result to the new folder `out`: weights, config.json, card.

    A timm model is loaded from there once, by timm alone, before the folder takes its name.
    allow_worse: also a model that got worse. guard: limits that it has to hold, as
    `export.guard.limits` reads them. made_by: the command, for the card.
    Raises UserError, and BikdError where the weights are gone or cannot be written.
    """
    check_free(out)
    held = limits(guard) if guard is not None else ()
    choice = select_result(store, **vars(request))
    result = choice.result
    digits = digits_of(choice.metric.unit)
    if choice.got_worse and not allow_worse:
        with_whom = f" with {choice.gain['partner']}" if choice.gain["partner"] else ""
        raise UserError(
            f"{result['model']} got worse{with_whom} (seed {result['seed']}): "
            f"{choice.metric.title} {plain(result['before'], digits)} to "
            f"{plain(result['after'], digits)}; choose another --partner or --seed, or add "
            "--allow-worse"
        )
    check(choice, held)
    source = origin(choice)
    state = _kept_state(store, choice)
    network = rebuild(source.model, state)
    config = getattr(network, "pretrained_cfg", None) or {}
    base = Base(source.model, None if source.model.entry.checkpoint else config.get("hf_hub_id"))
    with new_folder(out) as folder:
        write_weights(folder, state, {"job_id": result["job_id"], "model": result["model"]})
        if source.model.blueprint:
            write_config(folder, source.model, network)
            check_loads(folder, source.model, network)
        text = card(choice, base, source.data, made_by)
        (folder / CARD).write_text(text, encoding="utf-8")
    return Exported(out, choice, tuple(_notes(choice)))


def _kept_state(store: Store, choice: SelectedResult) -> dict[str, Tensor]:
    """The kept tensors, from where the store lies now: it may have been copied since."""
    relative = choice.result["weights"]
    try:
        return load(store.file(relative))
    except FileNotFoundError:
        raise BikdError(
            f"{choice.result['model']}: its kept weights are gone ({relative} in {store.uri})"
        ) from None
    except SafetensorError as error:
        raise BikdError(
            f"{choice.result['model']}: its kept weights are damaged ({relative}: {error})"
        ) from None


def _notes(choice: SelectedResult) -> list[str]:
    notes = [choice.among] if choice.among else []
    notes += [
        f"licence of {row['model']}: {row['licence']}, not for commercial use"
        for row in choice.models.values()
        if is_non_commercial(row["licence"])
    ]
    net = choice.gain["net_delta"]
    if net is not None and choice.metric.sign * net <= 0:
        told = difference(net, choice.metric.unit)
        notes.append(
            f"{choice.result['model']} gained as much or more alone (net Δ {told}); "
            "its control may be the better model"
        )
    return notes

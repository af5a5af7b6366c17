"""The card of an exported model: what it is, what it gained, at what cost, and how it was made.

Markdown with the front matter of the Hugging Face Hub, so that the folder can be pushed as is.
"""

import json
import re
from dataclasses import dataclass

import yaml

from bikd_ray import __version__
from bikd_ray.export.licence import UNKNOWN, hub_licence, is_non_commercial
from bikd_ray.export.snippet import snippet
from bikd_ray.export.summary import Row, SelectedResult
from bikd_ray.export.tables import chosen_among, classes, code, plain, results
from bikd_ray.formatting import difference_unit, digits_of, number, signed
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Data, DataSource, TimmData
from bikd_ray.store.verdicts import ON_VAL, delta_text, in_words, net_text, own_sentence
from bikd_ray.tasks import hub
from bikd_ray.vocabulary import UNTOUCHED

OBJECTIVES = {
    "bikd": "for every sample the model with the lowest loss taught the others",
    "dml": "every model taught every other",
    "kd": "a frozen teacher taught it, beside the labels",
    "kl_dp": "a frozen teacher taught it where more confident than its old self, else that did",
    "kl_dp_supervised": "a frozen teacher taught it where its loss was below its old self's, else "
    "that did",
    "self": "a control: its own frozen start taught it",
    "soup": "the mean of the weights of several runs with these partners",
    "ce": "a control: the labels alone, no teacher",
}


LIBRARIES = {"timm": "timm", "transformers": "transformers", "detectron2": "transformers"}
"""Kinds of zoo entries whose exported folder a library of the Hub loads."""


@dataclass(frozen=True)
class Base:
    """The model that was trained further. hub: its repository on the Hub, where it has one."""

    model: ResolvedModel
    hub: str | None


def card(choice: SelectedResult, base: Base, data: Data, made_by: str) -> str:
    """The whole README.md. data: where the images came from."""
    parts = [
        _front_matter(choice, base, data),
        f"# {plain(_title(choice))}",
        *_warnings(choice),
        _summary(choice),
        "## Use\n\n" + snippet(base.model),
        "## Results\n\n" + results(choice),
        *(["## Chosen among\n\n" + chosen_among(choice.kinds)] if choice.kinds else []),
        *_of_classes(choice, base),
        "## How it was made\n\n" + _making(choice, base, data, made_by),
    ]
    text = "\n\n".join(parts) + "\n"
    return re.sub(r"://[^/@\s]*@", "://", text)  # addresses without the keys they may hold


def _front_matter(choice: SelectedResult, base: Base, data: Data) -> str:
    library = next((kind for kind in LIBRARIES if getattr(base.model.entry, kind)), None)
    pipeline = hub.pipeline(choice.metric)
    datasets = [
        source.name.partition("/")[2]
        for source in (data.train, data.val)
        if isinstance(source, TimmData) and source.name.startswith("hfds/")
    ]
    about: Row = hub_licence(base.model.licence)
    if library:
        about["library_name"] = LIBRARIES[library]
    if pipeline:
        about["pipeline_tag"] = pipeline
    if base.hub:
        about |= {"base_model": base.hub, "base_model_relation": "finetune"}
    if datasets:
        about["datasets"] = list(dict.fromkeys(datasets))
    about["metrics"] = [hub.metric_name(choice.metric)]
    named = [LIBRARIES[library]] if library else []
    of_task = filter(None, [hub.tag(choice.metric)])
    about["tags"] = [*of_task, "knowledge-transfer", "bikd", *named]
    return f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---"


def _of_classes(choice: SelectedResult, base: Base) -> list[str]:
    """Nothing of models that answer no classes."""
    if not choice.classes and not choice.metric.binary:
        return []
    return ["## Classes\n\n" + classes(choice, base.model.classes)]


def _title(choice: SelectedResult) -> str:
    name, partner = choice.result["model"], choice.gain["partner"]
    if not partner:
        return f"{name}, trained alone"
    how = "taught by" if choice.result["role"] == "student" else "trained with"
    return f"{name}, {how} {partner}"


def _warnings(choice: SelectedResult) -> list[str]:
    lines = []
    for model_id, row in choice.models.items():
        if is_non_commercial(row["licence"]):
            own = model_id == choice.result["model_id"]
            lines.append(
                f"> **Not for commercial use.** The weights of {plain(row['model'])} are licensed "
                f"{plain(row['licence'])}{'' if own else ', and this model learned from them'}."
            )
    if choice.got_worse:
        units = choice.metric.units
        lines.append(f"> **Worse than the base model** on the {units} it was measured on.")
    if choice.result["epoch"] == 0:
        lines.append("> **Unchanged.** Epoch 0 was selected: these are the base model's weights.")
    return lines


def _summary(choice: SelectedResult) -> str:
    gain = choice.gain
    metric, digits = choice.metric, digits_of(choice.metric.unit)
    unit = "%" if metric.unit == "%" else f" {metric.unit}".rstrip()
    text = (
        f"{metric.title[:1].upper()}{metric.title[1:]} {number(gain['before'], digits)}{unit} → "
        f"**{number(gain['after'], digits)}{unit}** on {gain['n']:,} {metric.units}: "
        f"Δ {delta_text(gain)}{_in_words(difference_unit(metric.unit))}."
    )
    if gain["control"] == UNTOUCHED:
        return (
            f"{text} It was trained on images without labels, so there is no control by "
            "cross-entropy, and net Δ is Δ: it holds what further training without a partner would "
            f"give, {_verdict(choice)}."
        )
    if gain["net_delta"] is not None:
        return (
            f"{text} The same training without a partner gave "
            f"{signed(gain['control_delta'], digits)}: "
            f"net Δ {net_text(gain)}, {_verdict(choice)}.{_own(choice)}"
        )
    if gain["partner"]:
        text += " There is no control: how much of it the same training alone gives is unknown."
    return text


def _in_words(unit: str) -> str:
    return " percentage points" if unit == "pp" else f" {unit}".rstrip()


def _own(choice: SelectedResult) -> str:
    """How much of it the model's own old self gives, as the setting as a whole says."""
    said = own_sentence(choice.together) if choice.together else ""
    return f" Over the seeds, {said}." if said else ""


def _verdict(choice: SelectedResult) -> str:
    """What the setting as a whole says of this partner: no checkpoint by itself can say it."""
    row = choice.together
    if row is None or row["verdict"] in (None, ON_VAL):
        return "without a fair interval"
    seeds = f"{row['seeds']} seeds" if row["seeds"] > 1 else "one seed"
    q = "" if row["q_value"] is None else f", q = {row['q_value']:.3f}"
    return f"over {seeds}: {in_words(row)}{q}"


def _making(choice: SelectedResult, base: Base, data: Data, made_by: str) -> str:
    result, model = choice.result, base.model
    file = (model.entry.checkpoint or "").partition("?")[0]  # what follows may be a key
    own = f", weights from {code(file)}" if file else ""
    lines = [
        f"- Base model: {code(model.entry.source)}{own} ({code(model.weights_id)}), licence "
        f"{plain(model.licence or UNKNOWN)}"
    ]
    for model_id, name in zip(result["partner_ids"], result["partners"], strict=True):
        row = choice.models.get(model_id, {})
        lines.append(
            f"- Partner: {plain(name)}, {code(row.get('source', '–'))}, licence "
            f"{plain(row.get('licence') or 'unknown')}"
        )
    label = result["objective"]
    lines += [
        f"- Objective: {code(label)}, {OBJECTIVES[label.partition('(')[0]]}",
        f"- Recipe: {code(_recipe(choice))}",
        f"- Data: {_data(choice, data)}",
        f"- Seed {result['seed']}, epoch {result['epoch']} (selection {result['selection']}), job "
        f"{code(result['job_id'])} of the sweep {plain(choice.job['sweep'])}",
        f"- Made with bikd-ray {__version__}:",
    ]
    return "\n".join(lines) + f"\n\n```console\n$ {made_by}\n```"


def _recipe(choice: SelectedResult) -> str:
    """The recipe as a spec has it, what is unset left out; the learning rate is the model's own."""
    recipe = json.loads(choice.job["recipe"])
    called = dict(zip(choice.job["member_ids"], choice.job["members"], strict=True))
    own = recipe.pop("lrs", {}).get(called[choice.result["model_id"]])
    given = {k: v for k, v in recipe.items() if v is not None} | ({"lr": own} if own else {})
    return f"{{{', '.join(f'{k}: {v}' for k, v in given.items())}}}"


def _data(choice: SelectedResult, data: Data) -> str:
    measured = f"{choice.result['n']:,} {choice.metric.units} to measure on"
    identity = f"{code(choice.result['data_id'])}, {measured}"
    held = f", {data.select_fraction:g} of train held out" if data.select_fraction else ""
    return f"train {code(_where(data.train))}{held}, val {code(_where(data.val))} ({identity})"


def _where(source: DataSource) -> str:
    given = source.model_dump(exclude_defaults=True)
    return " ".join([given.pop("source"), *(str(value) for value in given.values())])

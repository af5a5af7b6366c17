"""Specs and plans of models that nothing resolves."""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from bikd_ray.plan import (
    Cost,
    ResolvedData,
    ResolvedInput,
    ResolvedModel,
    ResolvedSplit,
    all_jobs,
)
from bikd_ray.spec_file import parse_spec
from bikd_ray.specs import Spec

DIGITS = {
    "train": {"source": "digits", "split": "train"},
    "val": {"source": "digits", "split": "val"},
}
INPUT = ResolvedInput(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "bicubic")
SPLIT = ResolvedSplit(count=20, content_id="c", listing_id="l", spot_id="s")
COST = Cost(params=10, flops=20, activations=40, peak=40, features=3)


def spec_of(names: Iterable[str] = "abc", **changes):
    zoo = [{"factory": "m:f", "alias": n} for n in names]
    return parse_spec({"zoo": zoo, "data": DIGITS, **changes})


def resolved(spec):
    zoo = {
        e.name: ResolvedModel(e, f"w-{e.name}", f"id-{e.name}", INPUT, 10, COST) for e in spec.zoo
    }
    return zoo, ResolvedData(spec.data, "data", "samples", SPLIT, SPLIT, 10, None)


def jobs_of(spec):
    return all_jobs(spec, *resolved(spec))


PAPER_ZOO = Path(__file__).parents[1] / "pipelines" / "specs" / "paper_zoo.yaml"


def paper_zoo() -> Spec:
    """The paper's spec with the lines of the model that is not for everyone, as its header says."""
    text = re.sub("^#~ ", "  ", PAPER_ZOO.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return parse_spec(yaml.safe_load(text))

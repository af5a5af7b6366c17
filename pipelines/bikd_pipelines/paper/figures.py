"""What the paper prints.

Source: S. Jain, S. Karthik, V. Gandhi, "Simplifying Knowledge Transfer in Pretrained Models",
TMLR 09/2025 (arXiv 2510.22208). `figures.csv` has Table 2 (Δ of KL+DP, and of Bi-KD as mean and
standard deviation of 3 seeds), Table 3 (Bi-KD: after, ensemble, recovered) and Table 6a (Δ of
Bi-KD for K = 2, 3, 4); MODELS has Table 1's accuracies before. All in percent and percentage
points on ImageNet-1k's 50,000 val images.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

IMAGES = 50_000
"""Of the val set that the paper measures on."""


@dataclass(frozen=True)
class Known:
    """One of the paper's models: top-1 before (Table 1) and the `origin` of its weights."""

    top1: float
    origin: str | None


MODELS = {
    "SeNet154": Known(81.378, "senet154.gluon_in1k"),
    "SWSL-ResNext101": Known(84.276, "resnext101_32x8d.fb_swsl_ig1b_ft_in1k"),
    "MAE": Known(83.446, "mae_finetuned_vit_base.pth"),
    "ViT-B": Known(79.152, "vit_base_patch16_224.augreg_in1k"),
    "PiT-B": Known(82.278, "pit_b_224.in1k"),
    "ResMLP-36": Known(79.576, "resmlp_36_224.fb_in1k"),
    "MambaVision-T2": Known(82.506, None),  # from a factory of the person's own
    "ResMLP-24-dist": Known(80.548, "resmlp_24_224.fb_distilled_in1k"),
    "DINOv2": Known(81.332, "dinov2_vits14_lc"),
    "ViT-S": Known(78.842, "vit_small_patch16_224.augreg_in1k"),
    "CoaT-lite-mini": Known(78.858, "coat_lite_mini.in1k"),
    "PiT-XS": Known(77.916, "pit_xs_224.in1k"),
    "ViT-T": Known(75.466, "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    "R50": Known(47.23, None),  # from here on Mask2Former's mIoU; by their aliases
    "Swin-T": Known(47.7, None),
    "Swin-S": Known(51.33, None),
}
"""By their names in the paper, which are the aliases of specs/paper_zoo.yaml."""
BY_ORIGIN = {known.origin: name for name, known in MODELS.items() if known.origin}


@dataclass(frozen=True)
class Figure:
    """One learner in one table; None where the table does not print it."""

    table: str
    model: str
    partners: tuple[str, ...]
    objective: str
    delta: float
    std: float | None  # of 3 seeds, in Table 4 of 5
    after: float | None
    ensemble: float | None
    recovered: float | None

    @property
    def before(self) -> float:
        return MODELS[self.model].top1


@cache
def figures(table: str | None = None) -> tuple[Figure, ...]:
    """Every figure of Tables 2, 3, 6a and 4 in this order, or of one; Δ of 3 is after − before.

    Numbers are as printed: Table 3 has some of its shares without a decimal.
    """
    text = (files("bikd_pipelines.paper") / "figures.csv").read_text(encoding="utf-8")
    every = (_figure(row) for row in csv.DictReader(text.splitlines()))
    return tuple(figure for figure in every if table in (None, figure.table))


def _figure(row: Mapping[str, str]) -> Figure:
    numbers = ("delta", "std", "after", "ensemble", "recovered")
    printed = {name: float(row[name]) if row[name] else None for name in numbers}
    delta = printed.pop("delta")
    if delta is None:
        after = printed["after"]
        assert after is not None
        delta = round(after - MODELS[row["model"]].top1, 3)
    partners = tuple(row["partners"].split(" + "))
    return Figure(row["table"], row["model"], partners, row["objective"], delta, **printed)

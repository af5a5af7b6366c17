"""Tables of gains and pairs, written by hand."""

from typing import Any

import plotly.graph_objects as go
import pyarrow as pa

from bikd_ray.store.answer_schemas import GAINS, PAIRS
from bikd_ray.store.verdicts import HARMED, IMPROVES

NAMES = {"1": "vit", "2": "mixer", "3": "resnet"}
SHARED = {"objective": "bikd", "selection": "last", "seeds": 3, "n": 900, "unit": "%"}


def gain(model: str, partners: str, delta: tuple, net: tuple | None, **more) -> dict:
    """A row of gains of model ids; delta and net as (value, low, high)."""
    row = {**SHARED, "model_id": model, "model": NAMES[model], "partner_ids": list(partners)}
    row |= {"partners": [NAMES[p] for p in partners], "best": False, "tie": False}
    row |= dict(zip(("delta", "delta_low", "delta_high"), delta, strict=True))
    row |= dict(zip(("net_delta", "net_low", "net_high"), net or (None,) * 3, strict=True))
    return row | more


GAIN_ROWS = [
    gain(
        "1", "3", (0.9, 0.4, 1.4), (0.6, 0.1, 1.1),
        recovered=250.0, tie=True, best=True, verdict=IMPROVES,
    ),
    gain("1", "23", (0.7, 0.2, 1.2), None),
    gain("1", "2", (0.5, -0.1, 1.1), (0.2, -0.4, 0.8), recovered=40.0, tie=True, best=True),
    gain(
        "2", "1", (-0.8, -1.2, -0.4), (-1.0, -1.5, -0.5),
        recovered=-20.0, best=True, verdict=HARMED, detectable=0.5,
    ),
]  # fmt: skip
GAIN_TABLE = pa.Table.from_pylist(GAIN_ROWS, GAINS)
CONTROL_TABLE = pa.Table.from_pylist([gain("1", "", (0.3, -0.2, 0.8), None)], GAINS)
PAIR_TABLE = pa.Table.from_pylist(
    [
        {
            "model_id_a": "2",
            "model_id_b": "1",
            "n": 900,
            "kappa": 0.25,
            "ensemble": 82.0,
            "score_a": 75.0,
            "score_b": 80.0,
        },
        {"model_id_a": "1", "model_id_b": "3", "n": 900, "kappa": None},
    ],
    PAIRS,
)


def traces(figure: go.Figure) -> Any:
    return figure.data

"""The columns of every answer and what they mean. docs/statistics.md has the definitions.

Gains are in the metric's unit, percentage points for percent; intervals are 95%.
"""

import pyarrow as pa

from bikd_ray.store.schema import SCHEMAS

_S, _I, _F, _LIST = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.string())

Column = tuple[str, pa.DataType, str]

_LEARNER: list[Column] = [
    ("model", _S, "alias, to show"),
    ("partner", _S, "aliases of the models that it was trained with"),
    ("role", _S, "peer: both learn; student: the partner is frozen; control: no partner"),
    ("objective", _S, "who taught whom"),
]
_DELTAS: list[Column] = [
    ("delta", _F, "the metric after less before, mean of the seeds"),
    ("delta_low", _F, "null where the epoch was chosen on these images"),
    ("delta_high", _F, ""),
    ("control_delta", _F, "of the same training without a partner, the same seeds"),
    ("net_delta", _F, "delta less the control's, seed by seed"),
    ("net_low", _F, "with one seed it counts the images only"),
    ("net_high", _F, ""),
]
_IDENTITY: list[Column] = [
    ("seeds", _I, ""),
    ("n", _I, "units: images; of video, videos"),
    ("metric", _S, "what is measured: see the table `metrics`"),
    ("unit", _S, "of the metric: %, nats, …; of its differences pp where that is %"),
    ("eval_set", _S, "on which set: val, or one that is only measured on"),
    ("selection", _S, "which epoch: last, best_val (chosen on these images) or best_select"),
    ("data_id", _S, ""),
    ("recipe_id", _S, ""),
    ("model_id", _S, ""),
]
_PARTNERS: list[Column] = [("partners", _LIST, "aliases"), ("partner_ids", _LIST, "model_ids")]

PAIR_GAINS = (
    "delta",
    "delta_low",
    "delta_high",
    "net_delta",
    "net_low",
    "net_high",
    "q_value",
    "recovered",
    "after",
)
CASES_AFTER = tuple(f"case{c}_after" for c in (1, 2, 3, 4))
LIKENESS = ("cca_before", "cca_after")
CURVE_MEANS = (
    "score",
    "train_score",
    "train_loss",
    "loss",
    "kl",
    "teacher_share",
    *(f"case{c}" for c in (1, 2, 3, 4)),
)


def answer_schema(columns: list[Column]) -> pa.Schema:
    return pa.schema(
        pa.field(name, kind, metadata={"meaning": meaning} if meaning else None)
        for name, kind, meaning in columns
    )


def _stored(table: str, *names: str) -> list[Column]:
    """Columns that an answer takes over from a table, with their meaning."""
    fields = [SCHEMAS[table].field(name) for name in names]
    return [(f.name, f.type, (f.metadata or {}).get(b"meaning", b"").decode()) for f in fields]


GAINS = answer_schema(
    [
        *_LEARNER,
        *_DELTAS,
        ("control", _S, "what net_delta is against: ce, or untouched where train has no labels"),
        ("self_delta", _F, "when taught by its own frozen start, where the sweep has it"),
        ("self_low", _F, ""),
        ("self_high", _F, ""),
        ("over_self", _F, "delta less that one, seed by seed"),
        ("over_self_low", _F, ""),
        ("over_self_high", _F, ""),
        ("p_value", _F, "of net_delta = 0, two-sided"),
        ("q_value", _F, "p_value after Benjamini-Hochberg over all rows of its setting"),
        ("verdict", _S, "what can be said: see docs/statistics.md"),
        ("detectable", _F, "the smallest net_delta that has 80% power here"),
        ("crossfit_delta", _F, "of the model's best partner, chosen on other images"),
        ("recovered", _F, "100 delta / (ensemble - before); null if that is not > 0"),
        ("tie", pa.bool_(), "in the set that holds the best partner, which has several"),
        ("best", pa.bool_(), "in the set that holds the best partner with 95%"),
        ("before", _F, "the metric of the untouched model"),
        ("after", _F, "before and delta"),
        ("ensemble_before", _F, "of the untouched members"),
        ("net_seeds", _I, "seeds with a control"),
        ("interval", _S, "what delta's interval counts: images, or images and seeds"),
        *_IDENTITY,
        *_PARTNERS,
    ]
)

GROWTH = answer_schema(
    [
        ("model", _S, "alias, to show"),
        ("size", _I, "models that train together"),
        ("groups", _I, "such groups with this model; the row is their mean"),
        *_LEARNER[2:],
        *_DELTAS,
        ("before", _F, "the metric of the untouched model"),
        *_IDENTITY,
    ]
)

CLASSES = answer_schema(
    [
        *_LEARNER,
        ("label", _I, "the class, as the data numbers it"),
        ("name", _S, "… and calls it; null where that is not known"),
        ("before", _F, "percent of the class"),
        ("after", _F, "percent of the class, mean of the seeds"),
        ("delta", _F, "after less before"),
        ("control_delta", _F, "the same without a partner"),
        ("seeds", _I, ""),
        ("n", _I, "val images of the class"),
        *_IDENTITY[2:],
        *_PARTNERS,
    ]
)

FLIPS = answer_schema(
    [
        *_LEARNER,
        ("gained", _F, "images wrong before and right after, mean of the seeds"),
        ("gained_known", _F, "those of them that a partner had right before"),
        ("lost", _F, "images right before and wrong after, mean of the seeds"),
        ("lost_known", _F, "those of them that a partner had right before"),
        ("control_gained", _F, "gained without a partner"),
        ("control_lost", _F, "lost without a partner"),
        *_IDENTITY,
        *_PARTNERS,
    ]
)

TEACHERS = answer_schema(
    [
        ("model", _S, "alias, to show"),
        ("objective", _S, "who taught whom"),
        ("measure", _S, "net_delta, or delta where a pairing has no control"),
        ("teaches", _F, "what its partners gain above what they gain on average"),
        ("teaches_low", _F, "counts the images and the pairings"),
        ("teaches_high", _F, ""),
        ("students", _I, "models that were trained with it"),
        ("learns", _F, "what it gains with an average partner"),
        ("learns_low", _F, "counts the images and the pairings"),
        ("learns_high", _F, ""),
        ("teachers", _I, "models that it was trained with"),
        ("learner_share", _F, "of the variance of all gains: told by who learns"),
        ("teacher_share", _F, "… by who teaches, beyond that"),
        *_IDENTITY[1:],
    ]
)

PAIRS = answer_schema(
    [
        *_stored("pairs", *(name for name in SCHEMAS["pairs"].names if name != "attempt")),
        ("objective", _S, "null where the pair is not trained yet"),
        ("recipe_id", _S, ""),
        ("unit", _S, "of the metric"),
        *_stored("results", *CASES_AFTER),
        *_stored("similarities", *LIKENESS),
        *(
            (f"{name}_{side}", _F, f"of model_{side}: see gains")
            for side in "ab"
            for name in PAIR_GAINS
        ),
    ]
)


CURVES = answer_schema(
    [
        *(_LEARNER[i] for i in (0, 1, 3)),
        ("epoch", _I, "0 is the untouched model"),
        ("seeds", _I, ""),
        *_stored("curves", *CURVE_MEANS),
        *_IDENTITY[6:],
        ("partner_ids", _LIST, "model_ids"),
    ]
)

ALONG = pa.schema(
    [SCHEMAS["frames"].field(name) for name in ("video", "frame")]
    + [pa.field(name, pa.float64()) for name in ("before", "after", "alone", "partner")]
)
"""What one learner scores on each frame: untouched, with its partners and alone (means of the
seeds), and what its untouched partners do, in the mean. Null where the truth does not define it.
"""

ANSWERS: dict[str, pa.Schema] = {
    "partners": GAINS,
    "groups": GROWTH,
    "classes": CLASSES,
    "flips": FLIPS,
    "teachers": TEACHERS,
    "pairs": PAIRS,
    "curves": CURVES,
}
"""What each command answers with."""


def described() -> pa.Table:
    """Every column of the store's tables and of the answers, with its type and meaning."""
    rows = [
        {
            "where": where,
            "table": table,
            "column": field.name,
            "type": str(field.type),
            "meaning": (field.metadata or {}).get(b"meaning", b"").decode(),
        }
        for where, schemas in (("store", SCHEMAS), ("answer", ANSWERS))
        for table, schema in schemas.items()
        for field in schema
    ]
    return pa.Table.from_pylist(rows)

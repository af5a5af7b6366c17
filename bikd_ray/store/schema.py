"""Every table and column, with its unit and meaning, in one place.

What is measured stands in rows, one for each metric: its values and differences are in the
metric's unit (percent and percentage points; nats; …), as the table `metrics` says. Overlaps,
disagreement and shares are fractions. `attempt` grows with time as text; readers take one attempt
of a job. What version 1 had, and how it is read, is in `store/upgrade.py`.
"""

import pyarrow as pa

SCHEMA_VERSION = 2

ATTEMPT_LENGTH = 21
"""Characters of an attempt's name: milliseconds since 1970 in hex, then chance."""

LATER = "+"
"""Stands between a job's attempt and a set in the name of a file of results: those of a set that
was added after the job, measured from its kept weights. Such rows carry the job's attempt, and so
count where the job does."""

_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.binary()
_LIST = pa.list_(pa.string())

_EVERY = [
    ("data_id", _S, "identity of the data set: train and val images, labels, classes"),
    ("attempt", _S, "which writing of these rows this is; later ones sort higher"),
]
_MODEL = [
    ("model", _S, "alias, to show"),
    ("model_id", _S, "identity: weights, architecture, arguments and input; the key of queries"),
    ("weights_id", _S, "hash of the tensors alone"),
]
_SET = ("eval_set", _S, "val, or the name of a set that is only measured on")
_MEASURE = [
    _SET,
    ("metric", _S, "which one: see the table `metrics`"),
    ("n", _I, "units: images; of video, videos"),
]
_SCORES = [
    ("bits", _B, "of a binary metric: one bit a unit, in their order, first in the highest bit"),
    ("scores", _B, "of any other: float32 a unit, little-endian; their mean is the metric"),
    ("sums", _B, "of a ratio of sums: float64 [2, n], each unit's part above and below; else null"),
    ("unit_set_id", _S, "which units, in which order"),
]
_RUN = [
    ("objective", _S, "who teaches whom, with every setting that is not the default"),
    ("seed", _I, ""),
    ("recipe_id", _S, "identity of how it trained: recipe, held-out share, result version"),
]

_COUNTS = [
    ("sample", _I, "index into the set"),
    ("classes", pa.list_(pa.int16()), "true or predicted in it; segmentation"),
    ("labelled", pa.list_(pa.int32()), "pixels of each of them by the labels"),
    ("right", pa.list_(pa.int32()), "… that are predicted so"),
    ("predicted", pa.list_(pa.int32()), "labelled pixels that are predicted to be of each"),
]

_FRAMES = [
    ("sample", _I, "index into the set, of frames that are scored"),
    ("video", pa.int32(), "its place in the set, from 0"),
    ("frame", pa.int32(), "its place in the video, from 0"),
    *(
        (name, pa.float32(), f"{title}; null where the truth does not define it")
        for name, title in (
            ("cc", "CC of the frame"),
            ("nss", "NSS"),
            ("sim", "SIM"),
            ("kldiv", "KLDiv, nats"),
            ("auc_j", "AUC-J"),
        )
    ),
]

_COLUMNS: dict[str, list[tuple[str, pa.DataType, str]]] = {
    "models": [
        *_MODEL,
        ("source", _S, "timm name or factory"),
        ("checkpoint", _S, "file of the weights; null for a library's own"),
        ("params", _I, "parameters"),
        ("flops", _I, "of a forward pass of one image; a multiply-add is 2"),
        ("input_size", _I, "side of the square input, pixels"),
        ("mean", pa.list_(_F), "of the input's normalisation"),
        ("std", pa.list_(_F), "of the input's normalisation"),
        ("crop_pct", _F, "centre crop, share of the resized side"),
        ("interpolation", _S, "of the resizing"),
        ("licence", _S, "of the pretrained weights, where known"),
        ("resolved", _S, "JSON: all that it takes to build it again"),
    ],
    "metrics": [
        ("task", _S, "by which these images are measured"),
        ("metric", _S, "its name in every other table"),
        ("position", _I, "0 is the primary one: by it epochs are selected and partners ranked"),
        ("title", _S, "for people"),
        ("unit", _S, "%, nats, …; empty for a plain number"),
        ("higher_is_better", pa.bool_(), ""),
        ("binary", pa.bool_(), "each score is 0 or 1: `bits` holds them"),
        ("pooled", pa.bool_(), "a ratio of sums: scores are influence values"),
        (
            "units",
            _S,
            "of what each score is: images, videos; null in older rows: images",
        ),
        ("control", _S, "what net delta is against: ce, or untouched where train has no labels"),
        ("classes", _LIST, "their names, in the order of the labels; null where not known"),
    ],
    "baselines": [
        *_MODEL,
        *_MEASURE,
        ("value", _F, "of the metric"),
        ("published", _F, "by timm for these weights and this input, where known"),
        *_SCORES,
        ("seconds", _F, "of evaluation"),
    ],
    "predictions": [
        *_MODEL,
        _SET,
        ("sample", _I, "index into the set, of images with a label"),
        ("label", pa.int32(), "where several are right, the one that the model gives most"),
        ("predicted", pa.int32(), ""),
        ("label_prob", pa.float32(), "probability of the label, or of all that are right"),
        ("top_classes", pa.list_(pa.int32()), "the min(C, 32) most probable classes, best first"),
        ("top_probs", pa.list_(pa.float32()), "their probabilities"),
    ],
    "counts": [*_MODEL, _SET, *_COUNTS],
    "result_counts": [
        ("job_id", _S, ""),
        ("model_id", _S, ""),
        ("selection", _S, "last, best_val or best_select"),
        _SET,
        *_COUNTS,
    ],
    "frames": [*_MODEL, _SET, *_FRAMES],
    "result_frames": [
        ("job_id", _S, ""),
        ("model_id", _S, ""),
        ("selection", _S, "last, best_val or best_select"),
        _SET,
        *_FRAMES,
    ],
    "pictures": [
        ("job_id", _S, ""),
        ("model_id", _S, ""),
        ("sample", _I, "index into val: one of those that changed most by the last epoch"),
        ("name", _S, "of the sample, such as its file"),
        ("metric", _S, "by whose value of the sample it is told how much it changed"),
        ("value_before", _F, "of the untouched model"),
        ("value_after", _F, "of the last epoch"),
        ("image", _B, "the sample; WebP, as all of them"),
        ("truth", _B, "what is right, drawn over it"),
        ("before", _B, "the answer of the untouched model"),
        ("after", _B, "the answer of the last epoch"),
        ("others", pa.list_(_B), "those of the other members, untouched, in their order"),
    ],
    "pairs": [
        ("model_a", _S, "alias, to show"),
        ("model_b", _S, "alias, to show"),
        ("model_id_a", _S, ""),
        ("model_id_b", _S, ""),
        *_MEASURE,
        ("score_a", _F, "the metric of a"),
        ("score_b", _F, "the metric of b"),
        ("ensemble", _F, "of the mean distribution of the untouched models"),
        ("oracle", _F, "if the better of both answered each unit; null where pooled"),
        ("correlation", _F, "of both models' scores; null where they do not vary"),
        (
            "n11",
            _I,
            "both right: units, or all their pixels; from here on null where none is right",
        ),
        ("n10", _I, "only a right"),
        ("n01", _I, "only b right"),
        ("n00", _I, "both wrong"),
        ("case1", _F, "share: teacher (who gives the label more) and student both right"),
        ("case2", _F, "share: only the teacher right; the paper adds case 4 to it"),
        ("case3", _F, "share: both wrong"),
        ("case4", _F, "share: only the student right"),
        ("disagreement", _F, "share of them with different predictions"),
        ("error_inconsistency", _F, "share with exactly one right"),
        ("double_fault", _F, "share with both wrong"),
        ("error_overlap", _F, "both wrong / at least one wrong (Jaccard)"),
        ("kappa", _F, "Cohen's, on correctness"),
        ("q", _F, "Yule's Q, on correctness"),
        ("phi", _F, "correlation of correctness"),
    ],
    "jobs": [
        ("job_id", _S, ""),
        ("sweep", _S, "name of the spec that ran it"),
        ("members", _LIST, "aliases"),
        ("member_ids", _LIST, ""),
        *_RUN,
        ("recipe", _S, "JSON"),
        ("data", _S, "JSON: where its images came from"),
        ("status", _S, "done or failed"),
        ("error", _S, "why it failed, with the traceback"),
        ("seconds", _F, "of training and evaluation"),
        ("resources", _S, "JSON: what it ran on"),
        ("result_version", _I, "of the code that computes results"),
    ],
    "results": [
        ("job_id", _S, ""),
        *_MODEL,
        ("partners", _LIST, "aliases"),
        ("partner_ids", _LIST, ""),
        *_RUN,
        ("role", _S, "peer, student (of frozen partners) or control (ce, self)"),
        ("selection", _S, "last; best_val: chosen on the reported images; best_select: held out"),
        ("epoch", _I, "the selected one; 0 is the untouched model"),
        *_MEASURE,
        ("before", _F, "the metric of the untouched model"),
        ("after", _F, ""),
        ("delta", _F, "after less before"),
        ("delta_low", _F, "95% interval over units; null for best_val"),
        ("delta_high", _F, "95% interval over units; null for best_val"),
        ("p_value", _F, "two-sided: McNemar's mid-p, or a paired t; null for best_val"),
        ("gained", _I, "units wrong before and right after; null where not binary"),
        ("lost", _I, "units right before and wrong after; null where not binary"),
        ("ensemble_before", _F, "of all members untouched; null on sets only measured on"),
        ("ensemble_after", _F, "of all members after the last epoch; selection last"),
        ("recovered", _F, "100 delta / (ensemble - before); null if that is no gain"),
        ("error_overlap_after", _F, "units that all members get wrong / that any does"),
        ("case1_after", _F, "share, of two members: teacher (by the label) and student both right"),
        ("case2_after", _F, "… only the teacher right; the paper adds case 4 to it"),
        ("case3_after", _F, "… both wrong"),
        ("case4_after", _F, "… only the student right; all four null in older rows"),
        *_SCORES,
        ("weights", _S, "path in this store of the kept weights; null where none are kept"),
    ],
    "curves": [
        ("job_id", _S, ""),
        *_MODEL,
        *_RUN,
        ("epoch", _I, "0 is the untouched model"),
        ("score", _F, "the primary metric on val"),
        ("select_score", _F, "… on the held-out part of train"),
        ("train_score", _F, "… of the training samples, in training mode, where it is binary"),
        ("train_loss", _F, "own loss and divergence with their weights, nats"),
        ("loss", _F, "mean own loss (classification: cross-entropy), nats"),
        ("kl", _F, "mean divergence from its teachers, nats"),
        ("teacher_share", _F, "share of training samples on which it taught the rest"),
        ("case1", _F, "share on which it was the student: both right"),
        ("case2", _F, "… only the teacher right"),
        ("case3", _F, "… both wrong"),
        ("case4", _F, "… only the student right"),
    ],
    "similarities": [
        ("job_id", _S, ""),
        ("model_a", _S, "alias, to show"),
        ("model_b", _S, "alias, to show"),
        ("model_id_a", _S, ""),
        ("model_id_b", _S, ""),
        *_RUN,
        (
            "cca_before",
            _F,
            "mean of the top canonical correlations of pre-logits features on val",
        ),
        ("cca_after", _F, "the same after the last epoch; null where it cannot be told"),
        ("top", _I, "correlations in the mean before; in older rows 100, the most there may be"),
        ("top_after", _I, "… after; null in older rows"),
        ("ridge", _F, "added to the covariances, share of their mean diagonal"),
        ("n", _I, "val images"),
    ],
    "decisions": [
        ("decision_id", _S, "one look of a search at what is stored; a row for each target"),
        ("sweep", _S, "name of the spec that searched"),
        ("goal", _S, "best_partner or improve; null in older rows, of best_partner"),
        ("at", _F, "seconds since 1970"),
        ("objective", _S, ""),
        ("metric", _S, "by which partners were compared"),
        ("recipe_id", _S, ""),
        ("regret", _F, "what a settled model's best partner may lose, percentage points"),
        ("decide_on", _S, "half: one half of the units decides; all: every one"),
        ("model", _S, "alias, to show"),
        ("model_id", _S, "a target: whose best partner, or group, is wanted"),
        ("leader_id", _S, "the partner that is expected to be the best, trained or not"),
        ("winner_id", _S, "… of those that are trained"),
        ("expected_regret", _F, "what the leader is expected to lose, percentage points"),
        ("chance_untrained", _F, "that an untrained partner is better than the winner by regret"),
        ("settled", pa.bool_(), "whether nothing more is asked for its sake"),
        ("sigma_t", _F, "standard deviation of teachers, percentage points"),
        ("sigma_w", _F, "… of what is left of a pair"),
        ("seed_sd", _F, "… over seeds"),
        ("cells", _I, "gains of a learner with a partner that the model saw"),
        ("cost_done", _F, "work done or under way, FLOPs"),
        ("cost_map", _F, "work of the whole map, FLOPs"),
        ("job_ids", _LIST, "what it trains next with this model"),
        ("reasons", _LIST, "of each: start, leader, second, group, pair, confirm or control"),
        ("group_ids", _LIST, "goal improve: members of the best group so far"),
        ("next_ids", _LIST, "… of the group that is trained or about to be"),
        ("delta", _F, "… what the best group gave, on the deciding units, larger is better"),
    ],
}

KEYS: dict[str, tuple[str, ...]] = {
    "models": ("data_id", "model_id"),
    "metrics": ("data_id", "metric"),
    "baselines": ("data_id", "model_id", "eval_set"),
    "predictions": ("data_id", "model_id", "eval_set"),
    "counts": ("data_id", "model_id", "eval_set"),
    "result_counts": ("job_id",),
    "frames": ("data_id", "model_id", "eval_set"),
    "result_frames": ("job_id",),
    "pictures": ("job_id",),
    "pairs": ("data_id", "eval_set", "model_id_a", "model_id_b"),
    "jobs": ("job_id",),
    "results": ("job_id",),
    "curves": ("job_id",),
    "similarities": ("job_id",),
    "decisions": ("decision_id",),
}
"""What one attempt is chosen for: rows of equal keys and different attempts are repetitions."""

ROW: dict[str, tuple[str, ...]] = {
    "baselines": ("metric",),
    "predictions": ("sample",),
    "counts": ("sample",),
    "result_counts": ("model_id", "selection", "eval_set", "sample"),
    "frames": ("sample",),
    "result_frames": ("model_id", "selection", "eval_set", "sample"),
    "pictures": ("model_id", "sample"),
    "pairs": ("metric",),
    "results": ("model_id", "selection", "eval_set", "metric"),
    "curves": ("model_id", "epoch"),
    "similarities": ("model_id_a", "model_id_b"),
    "decisions": ("model_id",),
}
"""What tells apart the rows of one attempt, for tables where it has several."""

COMMITTED_BY = {
    "results": "jobs",
    "curves": "jobs",
    "similarities": "jobs",
    "predictions": "baselines",
    "counts": "baselines",
    "result_counts": "jobs",
    "frames": "baselines",
    "result_frames": "jobs",
    "pictures": "jobs",
}
"""Tables whose rows count only once their attempt stands in another; the others commit
themselves."""


def _schema(table: str) -> pa.Schema:
    fields = [
        pa.field(name, kind, metadata={"meaning": meaning} if meaning else None)
        for name, kind, meaning in [*_COLUMNS[table], *_EVERY]
    ]
    return pa.schema(fields, metadata={"bikd_table": table, "bikd_schema": str(SCHEMA_VERSION)})


SCHEMAS: dict[str, pa.Schema] = {table: _schema(table) for table in _COLUMNS}

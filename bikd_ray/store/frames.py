"""What models score frame by frame along videos, from what a task keeps of each frame."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from bikd_ray.store.answer_schemas import ALONG
from bikd_ray.store.read import Reader, pc
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.series import Measure, ModelSeries, Seeds, model_series

FRAMES, AFTER = "frames", "result_frames"
"""Tables of untouched models and of trained ones."""

WHERE = ("video", "frame")


def along(
    reader: Reader,
    model_id: str,
    partner_ids: Sequence[str],
    *,
    data_id: str,
    recipe_id: str,
    objective: str,
    selection: str,
    measure: Measure,
) -> pa.Table:
    """One learner with its partners, along every video. Columns: `ALONG`; no row where the store
    keeps no frames of the metric.
    """
    of = measure.of_data(reader).get(data_id)
    if of is None or of.name not in SCHEMAS[FRAMES].names:
        return ALONG.empty_table()
    found = model_series(reader, [model_id], objective, selection, measure=measure)
    for learner in found:
        if (learner.data_id, learner.recipe_id) == (data_id, recipe_id):
            return _along(learner, tuple(partner_ids))
    return ALONG.empty_table()


def _along(learner: ModelSeries, partner_ids: tuple[str, ...]) -> pa.Table:
    reader, metric = learner.reader, learner.metric.name
    assert reader is not None
    mine = (pc.field("data_id") == learner.data_id) & (pc.field("eval_set") == learner.eval_set)
    own = mine & (pc.field("model_id") == learner.model_id)
    frames = reader.table(FRAMES, ["sample", *WHERE, metric], own).rename_columns(
        {metric: "before"}
    )
    others = reader.table(FRAMES, ["sample", metric], mine & pc.field("model_id").isin(partner_ids))
    of_jobs = (pc.field("model_id") == learner.model_id) & (
        pc.field("selection") == learner.selection
    )

    def trained(seeds: Seeds) -> pa.Table:
        jobs = [row["job_id"] for row in seeds.values()]
        return reader.table(AFTER, ["sample", metric], of_jobs & pc.field("job_id").isin(jobs))

    parts = {
        "after": trained(learner.by_partners.get(partner_ids, {})),
        "alone": trained(learner.control),
        "partner": others,
    }
    for name, table in parts.items():
        means = table.group_by("sample", use_threads=False).aggregate([(metric, "mean")])
        means = means.rename_columns(["sample", name])
        frames = frames.join(means, "sample", join_type="left outer", use_threads=False)
    frames = frames.sort_by([(name, "ascending") for name in WHERE])
    return frames.select(ALONG.names).cast(ALONG)


def most_moved(rows: pa.Table) -> pa.Table | None:
    """The frames of the video, of several frames, whose mean changed most with the partners, less
    what it changed alone where that is known. None where there is none. rows: columns `ALONG`.
    """
    start = rows["before"] if rows["alone"].null_count == len(rows) else rows["alone"]
    moved = rows.append_column("moved", pc.subtract(rows["after"], start))
    means = moved.group_by("video", use_threads=False).aggregate(
        [("moved", "mean"), ("frame", "count")]
    )
    means = means.filter(pc.greater(means["frame_count"], 1)).drop_null()
    if not len(means):
        return None
    video = means["video"][int(np.abs(means["moved_mean"].to_numpy()).argmax())]
    return rows.filter(pc.equal(rows["video"], video))

"""What the store, the card and the pages say alike comes from one place: its arithmetic."""

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.bits import pack
from bikd_ray.analysis.classes import ClassGain, class_gains
from bikd_ray.formatting import with_span
from bikd_ray.store.gains import net_columns
from bikd_ray.store.pairings import (
    TrainedGroups,
    likeness,
    one_partner,
    rows_after,
    trained_groups,
    with_likeness,
)
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.tasks.classification_metrics import TOP1


def bits(*right: int) -> bytes:
    return pack(np.array(right, bool))


def test_a_class_without_images_has_no_row_and_seeds_are_averaged():
    labels = np.array([0, 0, 2, 2])
    after = [bits(1, 1, 1, 0), bits(1, 0, 1, 0)]
    found = list(class_gains(labels, bits(1, 0, 1, 1), after, [bits(1, 0, 0, 0)]))
    assert found == [ClassGain(0, 2, 50, 75, 0), ClassGain(2, 2, 100, 50, -100)]
    assert [gain.delta for gain in found] == [25, -50]
    assert [g.control for g in class_gains(labels, bits(1, 0, 1, 1), after, [])] == [None, None]


def test_net_delta_of_one_result_is_its_gain_less_the_controls_of_its_seed():
    result = {"bits": bits(1, 1, 1, 0), "n": 4, "selection": "last"}
    control = {"bits": bits(1, 0, 0, 0), "delta": -25.0}
    row = net_columns(result, control, TOP1)
    assert (row["control_delta"], row["net_delta"]) == (-25, 50)
    assert -100 <= row["net_low"] < 50 < row["net_high"] <= 100
    unfair = net_columns({**result, "selection": "best_val"}, control, TOP1)
    assert (unfair["net_delta"], unfair["net_low"], unfair["net_high"]) == (50, None, None)
    assert set(net_columns(result, None, TOP1).values()) == {None}


def similar(job: str, a: str, b: str, before: float | None) -> dict:
    setting = {"data_id": "d", "objective": "bikd", "recipe_id": "r"}
    row = {"job_id": job, "model_id_a": a, "model_id_b": b, "cca_before": before, **setting}
    return dict.fromkeys(SCHEMAS["similarities"].names) | row


def test_jobs_that_name_a_pair_in_either_order_are_one_pair_and_have_one_row():
    rows = [similar("1", "x", "y", 0.2), similar("2", "y", "x", 0.4), similar("3", "x", "y", None)]
    table = pa.Table.from_pylist(rows, SCHEMAS["similarities"])
    (row,) = likeness(table).to_pylist()
    assert (row["model_id_a"], row["model_id_b"], row["cca_after"]) == ("x", "y", None)
    assert np.isclose(row["cca_before"], 0.3)
    pairs = pa.table({"model_id_a": ["y", "x"], "model_id_b": ["x", "z"], "n": [5, 6]})
    joined = with_likeness(pairs, table).sort_by("n").to_pylist()
    assert [r["n"] for r in joined] == [5, 6]
    assert np.isclose(joined[0]["cca_before"], 0.3)
    assert joined[1]["cca_before"] is None


def test_a_pair_trained_in_either_order_is_one_of_those_that_are_known():
    members = [["x", "y"], ["y", "x"], ["x", "y", "z"], ["z", "y", "x"], ["x"]]
    done = pa.table({"data_id": ["d"] * 5, "member_ids": members})
    pairs = pa.table({"data_id": ["d"], "model_id_a": ["z"], "model_id_b": ["x"]})
    assert trained_groups(done, pairs) == TrainedGroups(pairs=1, of=2, larger=1)


def test_a_frozen_teacher_stays_as_it_was_and_groups_are_no_pairs():
    results = pa.Table.from_pylist(
        [
            {"job_id": "1", "model_id": "a", "partner_ids": ["b"], "after": 72.0,
             "error_overlap_after": 0.3, "case2_after": 0.1},
            {"job_id": "2", "model_id": "a", "partner_ids": ["b", "c"], "after": 99.0,
             "error_overlap_after": 0.9, "case2_after": 0.9},
            {"job_id": "3", "model_id": "b", "partner_ids": ["a"], "after": 61.0,
             "error_overlap_after": None, "case2_after": None},
        ]
    )  # fmt: skip
    assert rows_after(results, "a", "b", {"a": 70.0, "b": 60.0}) == [
        {"score_a": 72.0, "score_b": 60.0, "error_overlap_after": 0.3, "case2_after": 0.1}
    ]
    single, partner = one_partner(results)
    assert (single["job_id"].to_pylist(), partner.to_pylist()) == (["1", "3"], ["b", "a"])


def test_a_difference_has_its_interval_beside_it_where_there_is_one():
    assert with_span(0.5, -0.1, 1.1) == "+0.50 [−0.10, +1.10]"
    assert with_span(0.5, None, None) == "+0.50"
    assert with_span(None, 0.1, 0.2) == "–"

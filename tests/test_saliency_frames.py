"""What is kept and shown of single frames: their values, pictures of them, and a curve along."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from bikd_dashboards.along import along_figure, along_info
from bikd_ray.data.clips.clip_set import ClipSet
from bikd_ray.data.clips.moving_digits import MovingDigits
from bikd_ray.data.loader import Loader
from bikd_ray.metrics import Metric
from bikd_ray.plan import View, Window
from bikd_ray.store.answer_schemas import ALONG
from bikd_ray.store.frames import most_moved
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.tasks import task_of
from bikd_ray.tasks.heat import COLD, DIM, HOT, LOOKED, heated
from bikd_ray.tasks.saliency_metrics import METRICS
from bikd_ray.train.pictures import MOST, most_changed

SALIENCY = task_of("saliency")
CC = Metric("cc", "CC", pooled=True)


def view(window: Window | None, height: int = 64, width: int = 96) -> View:
    return View(height, 1.0, "bilinear", "squash", None, width, window)


def batch_of(clips: ClipSet, rows: list[int], *views: View) -> Any:
    loader = Loader(clips, views, torch.device("cpu"), task=SALIENCY)
    (batch,) = loader.batches(np.array(rows), len(rows))
    return batch


def odd() -> ClipSet:
    return ClipSet(MovingDigits("val", videos=3, odd=True), size=(20, 30))


# Values of frames


def test_each_frame_is_kept_with_its_video_and_null_where_its_truth_defines_nothing():
    clips, one = odd(), view(None)
    batch = batch_of(clips, list(range(len(clips.labels))), one)
    found = SALIENCY.measure(SALIENCY.answer(batch.views[one][:, 1].float(), batch), batch)
    statistics = {name: value.numpy() for name, value in found.items()}
    table = pa.table(SALIENCY.columns(statistics))
    assert set(table.column_names) < set(SCHEMAS["frames"].names)
    where = list(zip(table["video"].to_pylist(), table["frame"].to_pylist(), strict=True))
    assert where == [tuple(sample) for sample in clips.samples.tolist()]
    lacking = {
        name: [
            at for at, value in zip(where, table[name].to_pylist(), strict=True) if value is None
        ]
        for name in METRICS
    }
    assert lacking == {
        "cc": [(2, 5)], "sim": [(2, 5)], "kldiv": [(2, 5)], "nss": [(2, 4)], "auc_j": [(2, 4)]
    }  # fmt: skip
    each_N = SALIENCY.of_each(statistics)
    assert np.isnan(each_N).tolist() == [at == (2, 5) for at in where]
    assert np.nanmean(each_N) == pytest.approx(SALIENCY.scores(statistics)["cc"].mean(), rel=1e-5)


# Pictures


def test_a_picture_is_the_frame_asked_for_with_truth_fixations_and_answers():
    clips = ClipSet(MovingDigits("val", videos=1), size=(20, 30))
    views = view(None, 32, 48), view(Window(4, 1, -3)), view(Window(4, 2, -3), 32, 48)
    batch = batch_of(clips, [9], *views)
    answer = torch.zeros(1, 16, 24)
    answer[0, 2, 20] = 1
    answers = SALIENCY.answer(answer, batch)
    sample, right, found = SALIENCY.draw(batch, [answers])
    assert np.array_equal(sample, np.asarray(clips.image(9)))
    assert right.shape == found.shape == (64, 96, 3)
    hottest = np.unravel_index(answers[0].argmax(), (64, 96))
    assert found[hottest].astype(int).sum() > found[-1, 0].astype(int).sum() + 100
    fixated = batch.target["fixated"][0].numpy()
    assert (right[fixated] == LOOKED).all()


def test_where_nobody_looks_the_frame_is_grey_and_dots_grow_with_it():
    photo = torch.tensor([200.0, 100.0, 0.0])[:, None, None].expand(3, 400, 600)
    looked, fixated = torch.zeros(400, 600), torch.zeros(400, 600, dtype=torch.bool)
    looked[0, 0], fixated[200, 300] = 2.0, True
    shown = heated(photo, looked, fixated)
    assert (shown[399, 0] == round(DIM * 100)).all()
    assert np.allclose(shown[0, 0], 0.85 * np.array(HOT) + 0.15 * DIM * 100, atol=1)
    dots = (shown == LOOKED).all(2)
    assert dots.sum() == 49
    assert dots[197:204, 297:304].all()
    assert COLD != HOT


def test_a_map_that_is_0_everywhere_is_the_frame():
    shown = heated(torch.full((3, 4, 4), 80.0), torch.zeros(4, 4))
    assert (shown == 60).all()


def test_of_one_video_one_frame_that_got_better_and_one_that_got_worse_is_pictured():
    before, after = np.zeros(8), np.array([0.9, 0.8, 0.1, -0.5, -0.6, 0.2, np.nan, 0.0])
    video = np.array([0, 0, 1, 1, 1, 2, 2, 3])
    assert most_changed(before, after, 1, video).tolist() == [0, 5, 2, 4]
    assert most_changed(before, after, -1, video).tolist() == [4, 0, 5, 2]
    assert most_changed(before, after, 1).tolist() == [0, 1, 5, 4, 3]
    assert MOST == 3


# Along a video


def rows(**columns: Sequence[float | None]) -> pa.Table:
    """Two frames of two videos, and one frame of a third."""
    empty = dict.fromkeys(("after", "alone", "partner"), [None] * 5)
    places = {"video": [0, 0, 1, 1, 2], "frame": [0, 4, 0, 4, 0], "before": [0.5] * 5}
    return pa.table({**places, **empty, **columns}, schema=ALONG)


def test_the_video_that_moved_most_is_told_against_alone_where_that_is_known():
    after = [0.6, 0.6, 0.8, 0.9, 1.0]
    one = most_moved(rows(after=after))
    assert one is not None
    assert one["video"].to_pylist() == [1, 1]
    one = most_moved(rows(after=after, alone=[0.9, 0.9, 0.8, 0.9, 0.5]))
    assert one is not None
    assert one["video"].to_pylist() == [0, 0]
    assert most_moved(rows().slice(4)) is None
    assert most_moved(ALONG.empty_table()) is None


def test_a_curve_has_a_line_for_each_that_is_known_and_gaps_where_nothing_is_defined():
    table = rows(after=[0.6, 0.6, 0.9, None, 1.0], partner=[0.7] * 5).slice(0, 4)
    info = along_info("Long", CC, table)
    assert info is not None
    assert (info.video, info.frames, info.title) == (2, (1, 5), "CC")
    assert [line.name for line in info.lines] == ["before", "Long, before", "with Long"]
    info = along_info(
        "Long", CC, rows(after=[0.5, 0.5, 0.9, 0.9, 1.0], alone=[0.5, None] * 2 + [1.0])
    )
    assert info is not None
    assert [line.values for line in info.lines] == [(0.5, 0.5), (0.5, None), (0.9, 0.9)]
    traces: Any = along_figure(info).data
    assert [trace.name for trace in traces] == ["before", "alone (control)", "with Long"]
    assert "undefined" in traces[1].hovertext[1]
    assert along_info("Long", CC, ALONG.empty_table()) is None

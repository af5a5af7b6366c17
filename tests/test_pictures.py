"""Pictures of what a job changed: which samples, whose answers, how an opened pair shows them."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn

from bikd_dashboards.blocks import Gallery
from bikd_dashboards.components import Maker
from bikd_dashboards.gallery import gallery
from bikd_dashboards.report_parts import LIMITS, Contents
from bikd_dashboards.snapshot import SettingView, Snapshot
from bikd_dashboards.theme import LIGHT
from bikd_ray.data import open_split
from bikd_ray.data.loader import Loader
from bikd_ray.errors import BikdError
from bikd_ray.plan import Job, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.store import Store, Writer
from bikd_ray.tasks import task_of
from bikd_ray.tasks.painting import COLOURS, painted
from bikd_ray.train import Fit, fit
from bikd_ray.train.member import Member
from bikd_ray.train.pictures import MOST, SIDE, most_changed, thumbnail
from bikd_ray.zoo import build
from tests.scene_nets import TWO, scene_spec
from tests.stores import BEFORE, after, answers, baseline, job

CPU = torch.device("cpu")


def opened(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_the_samples_that_changed_most_come_first_and_those_that_did_not_never():
    before = np.array([10.0, 10.0, np.nan, 50.0, 20.0, 30.0, 30.0, 90.0, 8.0])
    after = np.array([10.0, 40.0, 70.0, 20.0, 20.0, 60.0, 31.0, 85.0, 90.0])
    assert most_changed(before, after, 1).tolist() == [8, 1, 5, 3, 7]
    assert most_changed(before, after, -1).tolist() == [3, 7, 8, 1, 5]
    assert most_changed(before, before, 1).tolist() == []


@pytest.mark.parametrize(
    ("size", "becomes"),
    [((24, 48), (96, 192)), ((100, 50), (100, 50)), ((600, 400), (192, 128)), ((1, 999), (1, 192))],
)
def test_a_thumbnail_is_small_and_enlarged_by_whole_factors(size, becomes):
    assert opened(thumbnail(np.full((*size, 3), 128, np.uint8))).shape[:2] == becomes
    assert max(becomes) <= SIDE


def test_neighbouring_classes_and_what_is_not_labelled_have_colours_of_their_own():
    apart = torch.cdist(COLOURS[:24], COLOURS[:24]) + 1e3 * torch.eye(24)
    assert apart.min() > 20
    assert COLOURS[255].tolist() == [0, 0, 0]
    photo = torch.full((3, 2, 2), 200.0)
    assert (painted(photo) == 200).all()
    two = painted(photo, torch.tensor([[0, 255], [0, 1]]))
    assert two[0, 1].tolist() == [70, 70, 70]
    assert (two[0, 0] == two[1, 0]).all()
    assert (two[0, 0] != two[1, 1]).any()


@pytest.fixture(scope="module")
def trained() -> tuple[Job, Fit]:
    spec = scene_spec(TWO)
    found = next(job for job in all_jobs(spec, *resolve(spec)) if len(job.members) == 2)
    return found, end_of(found, lambda k: build(found.members[k].entry))


def end_of(job: Job, untouched: Callable[[int], nn.Module] | None) -> Fit:
    networks = [build(m.entry) for m in job.members]
    *_, end = fit(job, networks, CPU, untouched=untouched)
    assert isinstance(end, Fit)
    return end


def test_a_job_draws_its_learners_before_and_after_and_their_partners_before(trained):
    found, end = trained
    task = task_of("segmentation")
    assert end.pictures.failed is None
    images = open_split(found.data, "val")
    view = found.members[0].input.view
    loader = Loader(images, [view], CPU, cache="none", task=task)
    members = [Member(m, build(m.entry), CPU) for m in found.members]
    for k in range(2):
        mine = [one for one in end.pictures.found if one.member == k]
        of = [end.before.outcomes[k], end.chosen["last"][k].outcome]
        was, now = (task.of_each(one.statistics) for one in of)
        assert [one.sample for one in mine] == most_changed(was, now, 1).tolist()
        assert 0 < len(mine) <= 2 * MOST
        for one in mine:
            assert (one.value_before, one.value_after) == (was[one.sample], now[one.sample])
            assert one.name == f"digit scene {one.sample} of val"
            (batch,) = loader.batches(np.array([one.sample]), 1)
            with torch.no_grad():
                both = [task.answer(m.output(batch), batch) for m in members]
            drawn = [thumbnail(picture) for picture in task.draw(batch, both)]
            assert [one.image, one.truth, one.before, one.others[0]] == [
                drawn[0], drawn[1], drawn[2 + k], drawn[3 - k]
            ]  # fmt: skip
            assert len(one.others) == 1
    assert any(one.after != one.before for one in end.pictures.found)


def test_what_keeps_pictures_from_being_made_costs_a_job_nothing_else(trained):
    found, end = trained

    def gone(k: int) -> Any:
        raise BikdError("its weights are gone\nfor good")

    without = end_of(found, gone)
    assert without.pictures.failed == "its weights are gone"
    assert without.pictures.found == ()
    assert without.chosen["last"][0].outcome.values == end.chosen["last"][0].outcome.values
    unasked = end_of(found, None)
    assert unasked.pictures.found == ()
    assert unasked.pictures.failed is None


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> SettingView:
    uri = str(tmp_path_factory.mktemp("pictures"))
    writer = Writer(uri)
    for m in BEFORE:
        baseline(writer, m)
    for seed in range(2):
        members = {"a": after("a", 0.1, seed), "b": after("b", 0.05, seed)}
        kept, values = answers(members), {"value_before": 90.0 + seed, "value_after": 50.0}
        worse = [
            {**row, "sample": 4, "name": "a worse <one>", **values}
            for row in kept["pictures"].to_pylist()
        ]
        rows = [*kept["pictures"].to_pylist(), *worse]
        job(writer, members, seed, statistics={"pictures": pa.Table.from_pylist(rows)})
        job(writer, {"a": after("a", 0.1, seed), "c": after("c", 0.1, seed)}, seed)
    now = Snapshot(Store(uri))
    return SettingView(now, now.settings[0], LIMITS)


def test_an_opened_pair_shows_each_sample_once_and_what_got_worse_too(view):
    shown = gallery(view, "id-a", "id-b")
    assert isinstance(shown, Gallery)
    assert shown.title == "a: where it changed most"
    assert [row.title for row in shown.rows] == [
        "photo of a: top-1 0.00 % → 100.00 % (+100.00 pp), seed 0",
        "a worse <one>: top-1 91.00 % → 50.00 % (−41.00 pp), seed 1",
    ]
    captions, pictures = zip(*shown.rows[0].pictures, strict=True)
    assert captions == ("image", "truth", "a before", "a after", "b")
    assert pictures == (b"image", b"truth", b"before", b"after", b"of b")
    assert gallery(view, "id-a", "id-c") is None
    assert gallery(view, "id-b", "id-a") is not None


def test_the_report_and_the_app_show_the_same_pictures(view):
    block = gallery(view, "id-a", "id-b")
    assert block is not None
    html = str(Contents(view.snapshot)._html([block]))
    made = str(Maker({}, LIGHT, view.names).block(block))
    for text in ("a before", "data:image/webp;base64,YWZ0ZXI="):
        assert text in html
        assert text in made
    assert html.count("<img") == made.count("Img(") == 10
    assert "a worse &lt;one&gt;" in html

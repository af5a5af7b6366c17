"""A sweep of the digits with sets that are only measured on, and one that is added afterwards."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from bikd_ray.data.digits import DigitsImages
from bikd_ray.errors import UserError
from bikd_ray.specs import DigitsData
from bikd_ray.store import Store
from bikd_ray.store.check import check
from tests.faults import run
from tests.plans import DIGITS

CHANGES = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(0.7)),
    "rotated": lambda image: image.rotate(20, Image.Resampling.BILINEAR),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def digits_in_folders(folder: Path, name: str, classes: Iterable[int] = range(10)) -> Path:
    """Val digits, each changed, in a folder for each of some classes."""
    images = DigitsImages(DigitsData(source="digits", split="val"))
    for label in classes:
        (folder / name / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(images.labels == label)[:20]:
            changed = CHANGES[name](images.image(int(index)))
            changed.save(folder / name / str(label) / f"{index}.png")
    return folder / name


def command(*arguments: str):
    from bikd_pipelines.cli import app

    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


@pytest.fixture
def spec(spec_file, tmp_path):
    zoo = [
        {"factory": "tests.ordinal:network", "alias": f"net{width}", "input": {"size": 8},
         "kwargs": {"width": width}}
        for width in (4, 6)
    ]  # fmt: skip

    def write(**sets: Path) -> Path:
        further = {name: {"source": "folder", "path": str(path)} for name, path in sets.items()}
        data = {**DIGITS, "cache": str(tmp_path / "views"), "eval": further}
        recipe = {"epochs": 2, "batch_size": 100, "lr": 1e-2}
        return spec_file(
            zoo=zoo, data=data, recipe=recipe, seeds=[0], resources={"cpus_per_job": 2}
        )

    return write


def test_digits_are_measured_on_two_sets_and_later_on_a_third(cluster, spec, tmp_path, capfd):
    blurred = digits_in_folders(tmp_path, "blurred")
    rotated = digits_in_folders(tmp_path, "rotated", (1, 3, 4, 7))
    path = spec(blurred=blurred, rotated=rotated)
    report = run(path)
    assert (report.done, report.failed, report.left) == (3, 0, 0)
    store = Store(report.store)
    assert store.eval_sets() == ["val", "blurred", "rotated"]
    for name, n in (("val", 898), ("blurred", 200), ("rotated", 80)):
        (row,) = store.partners("net4", eval_set=name).to_pylist()
        assert (row["n"], row["seeds"]) == (n, 1)
        (control,) = [r for r in store.controls(eval_set=name).to_pylist() if r["model"] == "net4"]
        assert row["net_delta"] == pytest.approx(row["delta"] - control["delta"])
        assert row["delta_low"] < row["delta"] < row["delta_high"]
    known = {r["model"]: r["value"] for r in store.baselines(eval_set="rotated").to_pylist()}
    rows = [r for r in store.table("results").to_pylist() if r["eval_set"] != "val"]
    assert len(rows) == (2 + 2) * 2 * 4  # learners, sets, metrics; weights of `last` are kept
    for row in rows:
        if (row["eval_set"], row["metric"]) == ("rotated", "top1"):
            assert row["before"] == known[row["model"]]

    capfd.readouterr()
    mirrored = digits_in_folders(tmp_path, "mirrored")
    path = spec(blurred=blurred, rotated=rotated, mirrored=mirrored)
    told = command("plan", str(path)).stderr
    assert "mirrored (200 images), rotated (80 images, 4 of 10 classes)" in told
    assert "3 of 3 done jobs are not measured on mirrored; bikd evaluate measures those" in told
    before = store.table("jobs")
    done = command("evaluate", str(path))
    assert done.exit_code == 0
    assert f"bikd: 3 jobs measured · {store.uri}" in done.stderr
    assert store.table("jobs") == before  # nothing was trained
    (row,) = store.partners("net4", eval_set="mirrored").to_pylist()
    assert (row["n"], row["seeds"]) == (200, 1)
    assert row["net_delta"] is not None
    assert check(store.uri).num_rows == 0
    assert "bikd: 0 jobs measured, 3 before" in command("evaluate", str(path)).stderr
    assert "not measured" not in command("status", str(path)).stderr

    for kept in (tmp_path / "store" / "results").glob("*.parquet"):
        assert "merged" in kept.name
    other = yaml.safe_load(path.read_text())
    other["data"]["eval"]["blurred"]["path"] = str(mirrored)
    path.write_text(yaml.safe_dump(other))
    with pytest.raises(UserError, match=r"^data.eval.blurred: the store .* choose another name"):
        run(path)

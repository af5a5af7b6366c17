"""`bikd check` shows real images to every model and says how many it is right about."""

import numpy as np
import pytest
import torch

from bikd_pipelines.check import SHOWN, check, drawn
from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import open_images
from bikd_ray.data.views import Normalise
from bikd_ray.errors import UserError
from bikd_ray.plan import ResolvedInput
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import ParquetData
from tests.conftest import net

SHAPE = {"input": {"size": 8, "crop_pct": 1.0}}
PIXELS = ResolvedInput(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0, "bilinear")


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def odd(how: str) -> torch.nn.Module:
    """A zoo factory: a network that something is wrong with."""
    network = net(6)
    if how == "softmax":
        network.append(torch.nn.Softmax(1))
    if how == "coloured":
        network.insert(0, OnlyGrey())
    network.requires_grad_(how != "frozen")
    return network.half() if how == "half" else network


class OnlyGrey(torch.nn.Module):
    """NaN for images of one colour more than of the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of_channels = x.mean((2, 3))
        coloured = of_channels.amax(1) - of_channels.amin(1) > 1
        return x.where(~coloured[:, None, None, None], float("nan"))


def trained(images: str) -> torch.nn.Sequential:
    """A network that is right about most images of a file."""
    source = open_images(ParquetData(source="parquet", path=images))
    loader = Loader(source, [PIXELS.view], torch.device("cpu"), cache="none")
    (batch,) = loader.batches(np.arange(len(loader)), 100)
    shown = Normalise(PIXELS, torch.device("cpu"))(batch.views[PIXELS.view])
    torch.manual_seed(0)
    network = net(16)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(shown), batch.target).backward()
        optimizer.step()
    return network


def test_a_trained_model_is_told_from_one_with_its_classes_in_another_order(
    spec_file, images, tmp_path, capsys
):
    network = trained(str(images / "val.parquet"))
    torch.save(network.state_dict(), tmp_path / "right.pth")
    with torch.no_grad():
        for tensor in network[6].parameters():
            tensor.copy_(tensor.roll(1, 0))
    torch.save(network.state_dict(), tmp_path / "moved.pth")
    zoo = [
        {"factory": "tests.conftest:net", "kwargs": {"width": 16}, "alias": name, **SHAPE}
        | {"checkpoint": str(tmp_path / f"{name}.pth")}
        for name in ("right", "moved")
    ]
    found = check(spec_file(zoo=zoo))
    assert found.problems == []
    rows = {row["name"]: row for row in found.table.to_pylist()}
    assert rows["right"]["top1"] > 90
    assert rows["moved"]["top1"] < 10
    assert [rows["right"][key] for key in ("n", "chance", "published")] == [40, 25, None]
    assert rows["right + moved"]["top1"] is None
    said = capsys.readouterr().err
    top1 = rows["right"]["top1"]
    assert f"bikd: right: top-1 {top1:.1f}% of 40 val images (chance 25%)\n" in said
    assert "right: warning" not in said
    assert "bikd: moved: warning: no better than chance, but images of one class get one" in said


def test_what_cannot_be_trained_is_a_problem_and_the_rest_goes_on(spec_file, capsys):
    zoo = [
        {"factory": "tests.test_check:odd", "alias": how, "kwargs": {"how": how}, **SHAPE}
        for how in ("softmax", "half", "frozen", "coloured")
    ]
    found = check(spec_file(zoo=zoo))
    softmax, frozen, coloured = found.problems
    assert softmax.startswith("zoo: softmax ends in a softmax: it answers probabilities")
    assert frozen.startswith("zoo: frozen has no trainable parameter")
    assert coloured.startswith("coloured answers NaN or infinite numbers on 40 of 40 images, first")
    assert coloured.endswith("val.parquet, row 0")
    assert [row["name"] for row in found.rows] == ["half"]
    assert (
        "half: built in float16; it is measured and trained in float32" in capsys.readouterr().err
    )


def test_a_sweep_and_a_baseline_refuse_it_too(spec_file):
    zoo = [
        {"factory": "tests.test_check:odd", "alias": how, "kwargs": {"how": how}, **SHAPE}
        for how in ("softmax", "frozen")
    ]
    with pytest.raises(UserError) as error:  # what both begin with
        resolve(load_spec(spec_file(zoo=zoo)))
    softmax, frozen = str(error.value).splitlines()
    assert "softmax ends in a softmax" in softmax
    assert "frozen has no trainable parameter" in frozen


class Labels:
    def __init__(self, count: int, random_access: bool) -> None:
        self.labels, self.random_access = np.zeros(count, np.int64), random_access


@pytest.mark.parametrize("random_access", [True, False])
@pytest.mark.parametrize("total", [1, 7, 25, 203, 50_000])
@pytest.mark.parametrize("count", SHOWN)
def test_images_are_drawn_alike_each_once_and_from_all_parts(total, count, random_access):
    rows = drawn(Labels(total, random_access), count)  # type: ignore[arg-type]
    assert np.array_equal(rows, drawn(Labels(total, random_access), count))  # type: ignore[arg-type]
    assert np.array_equal(rows, np.unique(rows))
    assert min(count, total) - 7 <= len(rows) <= min(count + 7, total)
    assert 0 <= rows[0] <= rows[-1] < total
    if total == 50_000:
        assert np.bincount(rows // 12_500, minlength=4).min() > 0
        neighbours = (np.diff(rows) == 1).mean()
        assert neighbours > 0.7 if not random_access else neighbours < 0.1

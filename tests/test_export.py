"""Taking a model home: what timm loads from the folder, which result it is, what its card says."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.dataset import ImageDataset
from timm.data.transforms_factory import create_transform

from bikd_ray.analysis.bits import pack, unpack
from bikd_ray.errors import BikdError, UserError
from bikd_ray.export import ExportRequest, export_model
from bikd_ray.export.licence import hub_licence, is_non_commercial
from bikd_ray.export.select import select_result
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import Spec
from bikd_ray.store import Store, Writer
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.verdicts import clearness
from bikd_ray.sweep.baselines import measure
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest, JobResult
from tests.conftest import CLASSES
from tests.jobs import result_of

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parent.parent
NET = "../net | *x*"  # an alias is no path and no markup
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2,
       "class_token": False, "global_pool": "avg", "drop_path_rate": 0.1}  # fmt: skip
RES = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8, "num_classes": CLASSES}
OWN = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": CLASSES,
    "model_args": VIT,
    "pretrained_cfg": {
        "input_size": [3, 16, 16],
        "fixed_input_size": True,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.25, 0.25, 0.2],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "cc-by-nc-4.0",
    },
}


@dataclass(frozen=True)
class World:
    root: Path
    spec: Spec
    store: Path
    outcomes: dict[tuple[frozenset[str], int], JobResult]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> World:
    """Three models of three kinds, trained pairwise and alone; the store was moved since."""
    root = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    colours = ([200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60])
    for split, each in (("train", 12), ("val", 10)):
        for label, colour in enumerate(colours):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(each):
                noise = rng.normal(0, 60, (20, 24, 3)) + colour
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    torch.manual_seed(0)
    (root / "own").mkdir()
    (root / "own" / "config.json").write_text(json.dumps(OWN))
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **VIT)
    save_file(vit.state_dict(), root / "own" / "model.safetensors")
    save_file(timm.create_model("resnet18", **RES).state_dict(), root / "res.safetensors")
    spec = {
        "name": "tiny",
        "zoo": [
            {"timm": "local-dir:own", "alias": "vit"},
            {"timm": "resnet18", "kwargs": RES, "checkpoint": "res.safetensors", "alias": "res",
             "input": {"size": 32, "mean": [0.5, 0.4, 0.3], "interpolation": "bilinear"}},
            {"factory": "tests.conftest:net", "alias": NET, "kwargs": {"width": 6, "norm": True},
             "input": {"size": 8, "crop_pct": 1.0}},
        ],
        "data": {
            "train": {"source": "folder", "path": "train"},
            "val": {"source": "folder", "path": "val"},
            "cache": "none",
        },
        "recipe": {"epochs": 1, "batch_size": 16, "lr": 1e-2},
        "seeds": [0, 1],
        "store": "store",
    }  # fmt: skip
    (root / "spec.yaml").write_text(yaml.safe_dump(spec))
    loaded = load_spec(root / "spec.yaml")
    zoo, data = resolve(loaded)
    first = str(root / "where the sweep ran")
    writer, outcomes = Writer(first), {}
    for model in zoo.values():
        found = measure(model, data, ResourceRequest(1, 0), first, "val")
        row = {**dict.fromkeys(SCHEMAS["models"].names), **found.rows[0]}
        row |= {"source": model.entry.source, "licence": model.licence}
        row["resolved"] = model.to_json()
        writer.commit_baseline(found.rows, row, found.statistics)
    for job in all_jobs(loaded, zoo, data):
        end = result_of(JobRequest(job, "tiny", first, ("last",), similarity=False))
        assert end.error is None, end.error
        writer.commit_job(end.job, end.results, end.curves)
        outcomes[frozenset(job.names), job.seed] = end
    shutil.move(first, root / "store")
    return World(root, loaded, root / "store", outcomes)


@pytest.fixture
def world(made, tmp_path) -> World:
    """The same in a store of the test's own."""
    shutil.copytree(made.store, tmp_path / "store")
    return World(tmp_path, made.spec, tmp_path / "store", made.outcomes)


def rewrite(world: World, names, seed: int, change) -> None:
    """A newer attempt of a job, with changed result rows."""
    end = world.outcomes[frozenset(names), seed]
    Writer(str(world.store)).commit_job(end.job, [change(dict(r)) for r in end.results], end.curves)


def answering(right_N: np.ndarray, before_N: np.ndarray) -> dict:
    """What a result row says of a model that gets these images right."""
    return {
        "metric": "top1",
        "eval_set": "val",
        "bits": pack(right_N),
        "before": 100 * before_N.mean(),
        "after": 100 * right_N.mean(),
        "delta": 100 * (right_N.mean() - before_N.mean()),
        "gained": int((right_N & ~before_N).sum()),
        "lost": int((before_N & ~right_N).sum()),
    }


def with_right(world: World, model: str, names, seed: int, count: int) -> None:
    """Let `model` get the first `count` val images right after this job."""
    table = Store(str(world.store)).table("baselines").to_pylist()
    before = next(unpack(r["bits"], r["n"]) for r in table if r["model"] == model)
    right = np.arange(len(before)) < count
    rewrite(
        world, names, seed,
        lambda r: {**r, **answering(right, before)} if r["model"] == model else r,
    )  # fmt: skip


def take(world: World, model: str, out: str = "out", **wanted):
    allow_worse, guard = wanted.pop("allow_worse", True), wanted.pop("guard", None)
    store = Store(str(world.store))
    request = ExportRequest(model, **wanted)
    command = "bikd export …"
    if guard is not None:
        command = request.command(str(world.store), Path(out), allow_worse=True, guard=guard)
    return export_model(
        store, request, world.root / out, allow_worse=allow_worse, guard=guard, made_by=command
    )


def card_of(taken) -> str:
    return (taken.folder / "README.md").read_text()


SCRIPT = """
import json, sys
import timm, torch
images, *folders = sys.argv[1:]
for folder in folders:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    data = timm.data.create_dataset("", images, transform=timm.data.create_transform(**config))
    x, y = zip(*data)
    with torch.no_grad():
        logits = model(torch.stack(x))
    right = logits.argmax(-1) == torch.tensor(y)
    print(json.dumps({"logits": logits.tolist(), "right": right.tolist()}))
"""


ARCHITECTURES = {
    "vit": ("vit_tiny_patch16_224", {**VIT, "num_classes": CLASSES}, {**OWN["pretrained_cfg"]}),
    "res": ("resnet18", RES, {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3],
                              "std": [0.229, 0.224, 0.225], "crop_pct": 0.95,
                              "interpolation": "bilinear"}),
}  # fmt: skip


def test_timm_alone_loads_an_export_and_gives_its_stored_answers(made, tmp_path):
    here, val = World(tmp_path, made.spec, made.store, made.outcomes), str(made.root / "val")
    taken = [take(here, model, model) for model in ARCHITECTURES]
    folders = [str(one.folder) for one in taken]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, val, *folders],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    for one, found, (name, kwargs, pixels) in zip(
        taken, answers, ARCHITECTURES.values(), strict=True
    ):
        names = sorted(file.name for file in one.folder.iterdir())
        assert names == ["README.md", "config.json", "model.safetensors"]
        result = one.choice.result
        assert found["right"] == unpack(result["bits"], result["n"]).tolist()
        assert 100 * np.mean(found["right"]) == pytest.approx(result["after"])

        network = timm.create_model(name, **kwargs).eval()
        kept = f"weights/{result['job_id']}/{result['model_id']}-last.safetensors"
        network.load_state_dict(load_file(made.store / kept))
        shown = ("input_size", "mean", "std", "crop_pct", "interpolation")
        transform = create_transform(**{key: pixels[key] for key in shown})
        data = ImageDataset(val, transform=transform)
        with torch.no_grad():
            logits = network(torch.stack([torch.as_tensor(image) for image, _ in data]))
        np.testing.assert_allclose(found["logits"], logits.numpy(), atol=1e-5)


def test_the_cards_snippet_builds_a_factorys_model_with_its_weights(made, tmp_path):
    taken = take(World(tmp_path, made.spec, made.store, made.outcomes), NET, partner="vit")
    assert not (taken.folder / "config.json").exists()
    code = re.search(r"```python\n(.*?)```", card_of(taken), re.DOTALL)
    assert code
    check = """
images = timm.data.create_dataset("", sys.argv[1], transform=transform)
with torch.no_grad():
    right = [int(model(x[None]).argmax()) == y for x, y in images]
print("".join("01"[r] for r in right))
"""
    run = subprocess.run(
        [sys.executable, "-c", "import sys, timm, torch\n" + code[1] + check, made.root / "val"],
        capture_output=True, text=True, check=True, cwd=taken.folder,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    bits = unpack(taken.choice.result["bits"], taken.choice.result["n"])
    assert run.stdout.strip() == "".join("01"[int(b)] for b in bits)


def test_config_and_weights_claim_nothing_of_the_weights_they_replace(made, tmp_path):
    here = World(tmp_path, made.spec, made.store, made.outcomes)
    res, vit = (
        json.loads((take(here, m, m).folder / "config.json").read_text()) for m in ("res", "vit")
    )
    assert "license" not in res["pretrained_cfg"]  # timm knows one for weights these never were
    assert vit["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    assert vit["model_args"]["drop_path_rate"] == 0.1
    assert (
        not {"tag", "url", "hf_hub_id", "file"}
        & (res["pretrained_cfg"] | vit["pretrained_cfg"]).keys()
    )


def test_without_a_wish_it_is_the_partner_of_the_highest_mean_and_the_lowest_seed(world):
    for partner, right in (("res", (20, 22)), (NET, (10, 40))):  # means 21 and 25 of 40
        for seed, count in enumerate(right):
            with_right(world, "vit", ("vit", partner), seed, count)
    choice = select_result(Store(str(world.store)), "vit")
    assert choice.result["partners"] == [NET]
    assert choice.result["seed"] == 0  # though seed 1 is much better
    assert choice.result["after"] == 25.0
    assert choice.seeds is not None
    assert choice.seeds["after"] == pytest.approx(100 * 25 / 40)
    assert "Seed 0 is the lowest" in " ".join(choice.why)
    assert "Of 2 partners" in " ".join(choice.why)


def test_what_is_named_is_taken(world):
    store = Store(str(world.store))
    choice = select_result(store, "vit", partner="res", seed=1)
    assert (choice.result["partners"], choice.result["seed"]) == (["res"], 1)
    same = select_result(store, "vit", job=choice.result["job_id"])
    assert same.result == choice.result
    alone = world.outcomes[frozenset({"vit"}), 1].job["job_id"]
    control = select_result(store, "vit", job=alone)
    assert (control.result["role"], control.gain["net_delta"]) == ("control", None)


def test_numbers_of_a_checkpoint_are_its_own_and_its_seeds_control(world):
    with_right(world, "vit", ("vit", "res"), 1, 30)
    with_right(world, "vit", ("vit",), 1, 26)
    with_right(world, "vit", ("vit",), 0, 2)
    choice = select_result(Store(str(world.store)), "vit", partner="res", seed=1)
    before = choice.result["before"]
    assert choice.gain["delta"] == pytest.approx(75 - before)
    assert choice.gain["net_delta"] == pytest.approx(100 * (30 - 26) / 40)
    assert [c["n"] for c in choice.classes] == [10] * 4
    assert [c["after"] for c in choice.classes] == [100, 100, 100, 0]
    assert choice.classes[2]["control_delta"] == pytest.approx(60 - choice.classes[2]["before"])


def test_a_model_that_got_worse_is_refused_unless_asked_for_anyway(world):
    with_right(world, "vit", ("vit", "res"), 0, 0)
    with pytest.raises(UserError, match=r"^vit got worse with res \(seed 0\): .* --allow-worse$"):
        take(world, "vit", partner="res", allow_worse=False)
    assert not (world.root / "out").exists()
    assert "**Worse than the base model**" in card_of(take(world, "vit", partner="res"))


def test_a_guard_lets_nothing_out_that_breaks_one_of_its_limits(world):
    with_right(world, "vit", ("vit", "res"), 0, 30)
    with pytest.raises(
        UserError, match=r"^the guard refuses vit with res \(seed 0\): worst_class "
    ):
        take(world, "vit", partner="res", guard="top1>=-100 worst_class>=101")
    assert not (world.root / "out").exists()
    card = card_of(take(world, "vit", partner="res", guard="worst_class>=-100"))
    assert "--guard 'worst_class>=-100'" in card
    assert "| worst class, Δ |" in card


def test_a_choice_that_is_the_persons_is_left_to_the_person(world):
    store, writer = Store(str(world.store)), Writer(str(world.store))
    end = world.outcomes[frozenset({"vit", "res"}), 0]

    def again(**other):
        run = {**other, "job_id": "f" * 15 + other.popitem()[0][0]}
        rows = [{**r, **run} for r in end.results]
        writer.commit_job({**end.job, **run}, rows, [])

    again(objective="dml")
    for partner in (None, "res"):
        rows = [r for r in store.partners("vit").to_pylist() if partner in (None, r["partner"])]
        clearest = min(rows, key=clearness)["objective"]
        chosen = select_result(store, "vit", partner=partner)
        assert chosen.result["objective"] == clearest
        assert chosen.among.startswith(f"Of 2 objectives {clearest} has the clearest verdict")
        assert chosen.among in chosen.why
    assert select_result(store, "vit", objective="dml").among == ""
    again(recipe_id="another")
    with pytest.raises(UserError, match=r"several .* name one result with --job: \w{16} \(data"):
        select_result(store, "vit", partner="res")
    assert select_result(store, "vit", objective="dml").result["objective"] == "dml"
    with pytest.raises(UserError, match=r"leave out --partner, --objective and --seed"):
        select_result(store, "vit", job="0" * 16, seed=1)


def test_what_is_not_there_is_answered_with_what_is(world):
    store = Store(str(world.store))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"partner": "resnet"}, r"not trained with 'resnet'; choose from .*did you mean 'res'"),
        ({"partner": "res", "seed": 7}, r"no seed 7; choose from 0, 1$"),
        ({"job": "nothing"}, r"no finished job 'nothing'"),
        ({"job": world.outcomes[frozenset({"res"}), 0].job["job_id"]}, r"trained res$"),
    ]
    for wanted, message in cases:
        with pytest.raises(UserError, match=message):
            select_result(store, "vit", **wanted)


def test_weights_that_were_not_kept_are_answered_with_how_to_get_them(world):
    store = Store(str(world.store))
    with pytest.raises(UserError, match=r"kept of selection last, not of best_val; add --selec"):
        select_result(store, "vit", partner="res", selection="best_val")
    for seed in (0, 1):
        rewrite(world, ("vit", "res"), seed, lambda row: {**row, "weights": None})
    with pytest.raises(UserError, match=r"keep_weights: best.* into another --store"):
        select_result(store, "vit", partner="res")
    rewrite(world, ("vit", "res"), 1, lambda row: row)
    assert select_result(store, "vit", partner="res").result["seed"] == 1


def test_a_folder_is_there_whole_or_not_at_all(world):
    (world.root / "full").mkdir()
    (world.root / "full" / "mine").touch()
    with pytest.raises(UserError, match="is not empty; give a new folder"):
        take(world, "vit", "full")
    (world.root / "empty").mkdir()
    assert (take(world, "vit", "empty").folder / "config.json").exists()
    for file in (world.store / "weights").glob("*/*-last.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    before = sorted(world.root.iterdir())
    with pytest.raises(BikdError, match="weights are damaged"):
        take(world, "vit")
    shutil.rmtree(world.store / "weights")
    with pytest.raises(BikdError, match="weights are gone"):
        take(world, "vit")
    assert sorted(world.root.iterdir()) == before


def test_a_store_that_does_not_say_how_a_model_is_built_is_refused(world):
    rewrite_job = {**world.outcomes[frozenset({"vit", "res"}), 0].job, "data": None}
    end = world.outcomes[frozenset({"vit", "res"}), 0]
    Writer(str(world.store)).commit_job(rewrite_job, end.results, end.curves)
    with pytest.raises(BikdError, match="an older bikd wrote this store"):
        take(world, "vit", partner="res")


def test_a_card_can_be_pushed_and_shows_what_its_taker_must_know(world):
    taken = take(world, "res", partner="vit")
    text = card_of(taken)
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "unknown"
    assert about["library_name"] == "timm"
    assert about["metrics"] == ["accuracy"]
    assert "**Not for commercial use.** The weights of vit are licensed cc-by-nc-4.0" in body
    assert taken.notes[0] == "licence of vit: cc-by-nc-4.0, not for commercial use"
    result = taken.choice.result
    share = 100 * result["lost"] / result["n"]
    assert f"negative flips) | {result['lost']} ({share:.2f}%)" in body
    for said in ("unknown: see the base model", "bikd export …", result["job_id"], "lr: 0.01",
                 result["data_id"], f"folder {world.spec.data.val.path}"):  # fmt: skip
        assert str(said) in body


def test_the_base_models_own_licence_is_in_the_front_matter(made, tmp_path):
    taken = take(World(tmp_path, made.spec, made.store, made.outcomes), "vit")
    assert yaml.safe_load(card_of(taken).split("---\n")[1])["license"] == "cc-by-nc-4.0"
    assert "licensed cc-by-nc-4.0." in card_of(taken)


def test_a_card_keeps_the_keys_of_an_address_to_itself(made, tmp_path):
    store, request = Store(str(made.store)), ExportRequest("vit")
    command = request.command("s3://key:se+cret@bucket/x", Path("d"), allow_worse=False)
    taken = export_model(store, request, tmp_path / "out", allow_worse=True, made_by=command)
    assert "s3://bucket/x" in card_of(taken)
    assert "cret" not in card_of(taken)


def test_names_are_neither_paths_nor_markup(made, tmp_path):
    taken = take(World(tmp_path, made.spec, made.store, made.outcomes), NET)
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    assert r"# ../net \| \*x\*, trained with" in card_of(taken)


@pytest.mark.parametrize(
    ("licence", "forbids", "front"),
    [
        ("apache-2.0", False, {"license": "apache-2.0"}),
        ("cc-by-nc-4.0", True, {"license": "cc-by-nc-4.0"}),
        ("CC-BY-NC-SA-4.0", True, {"license": "cc-by-nc-sa-4.0"}),
        ("fair-noncommercial-research-license", True,
         {"license": "other", "license_name": "fair-noncommercial-research-license"}),
        ("fancy-license", False, {"license": "other", "license_name": "fancy-license"}),
        (None, False, {"license": "unknown"}),
    ],
)  # fmt: skip
def test_licences_are_told_by_their_names(licence, forbids, front):
    assert is_non_commercial(licence) == forbids
    assert hub_licence(licence) == front


def test_the_command_prints_the_folder_and_refuses_in_one_line(world, monkeypatch, capsys):
    from bikd_pipelines.cli import main

    store, out = str(world.store), str(world.root / "home")
    with_right(world, "vit", ("vit", "res"), 0, 30)
    words = ["bikd", "export", "vit", "--partner", "res", "--store", store,
             "--out", out]  # fmt: skip
    for code in (0, 2):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        said = capsys.readouterr()
        if code == 0:
            assert said.out == f"{out}\n"
            assert "licence of vit: cc-by-nc-4.0, not for commercial use" in said.err
        else:
            assert said.err == f"bikd: --out {out} is not empty; give a new folder\n"
    assert f"--partner res --store {store}" in (Path(out) / "README.md").read_text()

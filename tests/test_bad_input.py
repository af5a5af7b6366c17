"""What a person gets wrong costs one clear line each, and leaves nothing behind."""

import json
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from bikd_pipelines import cli
from bikd_ray.store import Writer
from bikd_ray.store.schema import SCHEMAS

torch.set_num_threads(1)

NET = {"factory": "tests.conftest:net", "input": {"size": 8, "crop_pct": 1.0}}
SMALL, MEDIUM = {**NET, "alias": "small"}, {**NET, "alias": "medium", "kwargs": {"width": 6}}
DIGITS = {
    "train": {"source": "digits", "split": "train"},
    "val": {"source": "digits", "split": "val"},
}


@pytest.fixture
def bikd(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; returns its exit code, its output and its errors."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BIKD_STORE", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bikd", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(bikd, tmp_path):
    """Runs a command that must be refused; returns the lines that say why."""

    def there() -> list[Path]:
        cache = tmp_path / "cache"  # what a command has read of good data stays known
        return sorted(path for path in tmp_path.rglob("*") if cache not in (path, *path.parents))

    def run(*arguments: object) -> list[str]:
        before = there()
        code, out, err = bikd(*arguments)
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        lines = err.splitlines()
        assert lines
        assert all(line.startswith("bikd: ") for line in lines), err
        assert there() == before
        return lines

    return run


def test_the_spec_that_every_case_here_breaks_is_good(bikd, spec_file, tmp_path):
    code, out, err = bikd("plan", spec_file(), "--store", tmp_path / "new", "--format", "csv")
    assert code == 0
    assert out.count("to do") == 2 * (3 + 3)
    assert "12 of 12 jobs to do" in err
    assert not (tmp_path / "new").exists()


def case(name: str, changes: dict, *said: str):
    return pytest.param(changes, said, id=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        case(
            "misspelt field",
            {"recipe": {"epoch": 3}},
            "spec.yaml: recipe.epoch: unknown field of recipe",
            "lr, lrs, momentum",
            "did you mean 'epochs'?",
        ),
        case(
            "misspelt top-level field",
            {"objective": "bikd"},
            "objective: unknown field;",
            "did you mean 'objectives'?",
        ),
        case(
            "misspelt field of a zoo entry",
            {"zoo": [SMALL, {**MEDIUM, "checkpint": "x"}]},
            "zoo[1].checkpint: unknown field of zoo[1]",
            "did you mean 'checkpoint'?",
        ),
        case(
            "unknown objective",
            {"objectives": ["bi-kd"]},
            "objectives[0].name: unknown value 'bi-kd'",
            "choose from bikd, ce",
            "did you mean 'bikd'?",
        ),
        case(
            "unknown objective by its bare name",
            {"objectives": "bi-kd"},
            "unknown value 'bi-kd'",
            "did you mean 'bikd'?",
        ),
        case(
            "unknown objective as a mapping",
            {"objectives": {"name": "bi-kd"}},
            "unknown value 'bi-kd'",
            "did you mean 'bikd'?",
        ),
        case(
            "temperature of zero",
            {"objectives": [{"name": "bikd", "temperature": 0}]},
            "objectives[0].temperature must be greater than 0, got 0",
        ),
        case(
            "negative temperature",
            {"objectives": ["ce", {"name": "bikd", "temperature": -1.5}]},
            "objectives[1].temperature must be greater than 0, got -1.5",
        ),
        case(
            "infinite rate", {"recipe": {"lr": float("inf")}}, "recipe.lr must be a finite", "inf"
        ),
        case("rate that is text", {"recipe": {"lr": "fast"}}, "recipe.lr must be", "'fast'"),
        case("no epochs", {"recipe": {"epochs": 0}}, "recipe.epochs must be", "1, got 0"),
        case("half an epoch", {"recipe": {"epochs": 2.5}}, "recipe.epochs must be", "got 2.5"),
        case("no recipe", {"recipe": None}, "recipe must be a mapping, got None"),
        case(
            "unknown optimiser",
            {"recipe": {"optimizer": "adm"}},
            "recipe.optimizer: unknown value 'adm'; choose from adam, adamw, sgd",
        ),
        case(
            "two zoo entries of one name",
            {"zoo": [SMALL, {**MEDIUM, "alias": "small"}]},
            "zoo[0] and zoo[1] are both called 'small'",
            "give one of them another alias",
        ),
        case("empty zoo", {"zoo": []}, "zoo must list at least 1, got []"),
        case("zoo of one", {"zoo": [SMALL]}, "pairings.size is 2, but the zoo has 1 model;"),
        case("zoo of names", {"zoo": ["resnet18"]}, "zoo[0] must be a mapping, got 'resnet18'"),
        case(
            "entry of two sources",
            {"zoo": [{**SMALL, "timm": "resnet18"}, MEDIUM]},
            "zoo[0]: give exactly one of timm: NAME, factory: package.module:function, "
            "hub: OWNER/REPO:ENTRY, for segmentation transformers, torchvision, smp, detectron2, "
            "or for videos saliency: NAME, got timm and factory",
        ),
        case(
            "factory without a function",
            {"zoo": [SMALL, {"factory": "my_models.resnet"}]},
            "zoo[1].factory must be package.module:function, got 'my_models.resnet'",
        ),
        case(
            "pairing of one",
            {"pairings": {"list": [["small", "large"], ["medium"]]}},
            "pairings: a pairing needs at least 2 models, got ['medium']",
        ),
        case(
            "pairing with itself",
            {"pairings": {"list": [["small", "small"]]}},
            "pairings: a pairing names a model twice: ['small', 'small']",
        ),
        case(
            "pairing with a stranger",
            {"pairings": {"list": [["small", "larg"]]}},
            "pairings: 'larg' is not in the zoo; choose from large, medium, small",
            "did you mean 'large'?",
        ),
        case(
            "anchors not in the zoo",
            {"pairings": {"anchors": {"models": ["smal"]}}},
            "pairings: 'smal' is not in the zoo; choose from large, medium, small",
            "did you mean 'small'?",
        ),
        case(
            "anchors without models",
            {"pairings": {"mode": "anchors"}},
            "pairings: mode anchors needs a non-empty models",
        ),
        case("pairings of four", {"pairings": {"size": 4}}, "pairings.size is 4", "has 3 models;"),
        case("seeds listed twice", {"seeds": [0, 1, 0]}, "seeds lists a value twice: [0, 1, 0]"),
        case("no seeds", {"seeds": []}, "seeds must list at least 1, got []"),
        case("seeds that are no list", {"seeds": 3}, "seeds must be a list, got 3"),
        case(
            "objective listed twice",
            {"objectives": ["bikd", {"name": "bikd", "temperature": 1.0}]},
            "objectives lists a value twice: ['bikd', 'bikd']",
        ),
        case(
            "select without a select fraction",
            {"selection": "best_select"},
            "selection best_select needs data.select_fraction > 0 (say 0.1), got 0",
        ),
        case(
            "unknown selection",
            {"selection": "best"},
            "selection: unknown value 'best'; choose from best_select, best_val, last",
        ),
        case(
            "GPUs that are no number",
            {"resources": {"gpus_per_job": "two"}},
            "resources.gpus_per_job must be a number >= 0 or auto, got 'two'",
        ),
        case(
            "an autoscaler whose nodes are of no size",
            {"resources": {"autoscaler": {"cpus": 0, "gpus": 1}}},
            "resources.autoscaler[0].cpus must be greater than 0, got 0",
        ),
        case(
            "negative CPUs",
            {"resources": {"cpus_per_job": -1}},
            "resources.cpus_per_job must be a number >= 0 or auto, got -1",
        ),
        case(
            "std of zero",
            {"zoo": [SMALL, {**NET, "input": {"std": [0.2, 0.2, 0]}}]},
            "zoo[1].input.std[2] must be greater than 0, got 0",
        ),
        case(
            "unknown data source",
            {"data": {**DIGITS, "val": {"source": "foldr", "path": "x"}}},
            "data.val.source: unknown value 'foldr'; choose from ade20k, cityscapes, clips, ",
            "digits, folder, ",
            "did you mean 'folder'?",
        ),
        case(
            "data source without its kind",
            {"data": {**DIGITS, "train": {"path": "x"}}},
            "data.train: missing source; choose from folder, parquet, timm, digits",
        ),
        case(
            "field of another data source",
            {"data": {**DIGITS, "val": {"source": "digits", "split": "val", "path": "x"}}},
            "data.val.path: unknown field of data.val; choose from labels, source, split",
        ),
        case(
            "data without a path",
            {"data": {**DIGITS, "val": {"source": "folder"}}},
            "data.val.path: missing; data.val needs it",
        ),
        case(
            "no val",
            {"data": {"train": DIGITS["train"]}},
            "data.val: missing; data needs it",
        ),
        # what only opening the data and building the models can tell
        case(
            "unknown timm model",
            {"zoo": [SMALL, {"timm": "resnet81", "checkpoint": "x.pth"}]},
            "zoo: timm has no model 'resnet81'",
            "choose from resnet",
            "did you mean 'resnet",
        ),
        case(
            "factory that is not there",
            {"zoo": [SMALL, {"factory": "tests.conftest:nett"}]},
            "zoo: factory 'tests.conftest:nett': no 'nett' in tests.conftest",
            "did you mean 'net'?",
        ),
        case(
            "kwargs that the factory does not take",
            {"zoo": [SMALL, {**NET, "kwargs": {"wdth": 3}}]},
            "kwargs {'wdth': 3} raised TypeError",
            "correct it or its kwargs",
        ),
        case(
            "input that the model cannot take",
            {"zoo": [SMALL, {**MEDIUM, "input": {"size": 24}}]},
            "zoo: medium cannot take images of 24 x 24",
            "set input: {size: …} or kwargs that fit",
        ),
        case(
            "one model twice",
            {"zoo": [SMALL, {**SMALL, "alias": "copy"}]},
            "zoo: 'small' and 'copy' are the same model with the same weights",
            "remove one",
        ),
        case(
            "checkpoint that is not there",
            {"zoo": [SMALL, {**MEDIUM, "checkpoint": "none.pth"}]},
            "zoo: medium: checkpoint ",
            "/none.pth does not exist; correct the path",
        ),
        case(
            "head with another number of classes",
            {"data": DIGITS, "zoo": [SMALL, {**MEDIUM, "factory": "tests.test_bad_input:ten"}]},
            "zoo: small outputs 4 classes, but the data has 10",
            "kwargs: {num_classes: 10}",
        ),
        case(
            "missing data folder",
            {"data": {**DIGITS, "train": {"source": "folder", "path": "nowhere/train"}}},
            "/nowhere/train is not a folder; give the folder that holds one sub-folder a class",
        ),
        case(
            "missing Parquet files",
            {"data": {**DIGITS, "val": {"source": "parquet", "path": "nowhere/val-*.parquet"}}},
            "/nowhere/val-*.parquet does not exist; give a Parquet file, folder or glob",
        ),
        case(
            "empty data set",
            {"data": {**DIGITS, "val": {"source": "folder", "path": "empty"}}},
            "data: no images under ",
            "/empty/CLASS/IMAGE with one of .jpg",
        ),
        case(
            "labels outside the classes",
            {"data": {**DIGITS, "num_classes": 7}},
            "data.num_classes is 7, but the data names 10 classes",
            "leave num_classes out or correct it",
        ),
    ],
)
def test_one_mistake_is_one_line_with_the_value_and_the_fix(refused, spec_file, changes, said):
    lines = refused("plan", spec_file(**changes), "--store", "store")
    assert len(lines) == 1, lines
    for words in said:
        assert words in lines[0]


def ten(width: int) -> torch.nn.Module:
    """A zoo factory: ten classes on 8 x 8 images."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 10))


def test_a_checkpoint_that_does_not_fit_says_what_differs(refused, spec_file, tmp_path):
    state = {"2.weight": torch.zeros(4, 48), "2.bias": torch.zeros(4), "head": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    zoo = [SMALL, {**MEDIUM, "checkpoint": "other.pth"}]
    (line,) = refused("plan", spec_file(zoo=zoo), "--store", "store")
    assert f"zoo: {tmp_path / 'other.pth'} does not fit medium (under 'state_dict': " in line
    assert "2 tensors missing, first 6.weight" in line
    assert "1 unexpected, first head" in line
    assert "2 of another shape, first 2.weight: file [4, 48], model [6, 48]" in line
    assert "give the file of this architecture, or the kwargs it was trained with" in line


def test_a_checkpoint_with_code_is_refused(refused, spec_file, tmp_path):
    torch.save({"args": Random(0), "state_dict": {}}, tmp_path / "code.pth")
    zoo = [SMALL, {**MEDIUM, "checkpoint": "code.pth"}]
    (line,) = refused("plan", spec_file(zoo=zoo), "--store", "store")
    assert f"zoo: medium: checkpoint {tmp_path / 'code.pth'} holds random.Random, more" in line
    assert "save its state_dict alone, or as safetensors" in line


def test_labels_in_parquet_outside_the_classes_name_the_sample(
    refused, spec_file, images, tmp_path
):
    table = pq.read_table(images / "val.parquet").slice(0, 3)
    labels = pa.array([0, 1, 9])
    pq.write_table(table.set_column(1, "label", labels), tmp_path / "val.parquet")
    data = {
        "train": {"source": "parquet", "path": str(images / "train.parquet")},
        "val": {"source": "parquet", "path": "val.parquet"},
        "num_classes": 4,
    }
    (line,) = refused("plan", spec_file(data=data), "--store", "store")
    assert "data.val: sample 2 has label 9, outside the 4 classes 0–3 (1 such samples; " in line
    assert "/val.parquet, row 2)" in line


# The file itself


def test_a_missing_spec_is_named(refused, tmp_path):
    (line,) = refused("plan", tmp_path / "sweeep.yaml", "--store", "store")
    assert f"cannot read the spec {tmp_path / 'sweeep.yaml'}: No such file or directory" in line


def test_a_folder_is_no_spec(refused, tmp_path):
    (line,) = refused("plan", tmp_path, "--store", "store")
    assert f"cannot read the spec {tmp_path}: Is a directory" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"zoo: [\n  - timm: x\n", "spec.yaml, line 2: not YAML"),
        (b"name: a\n\tzoo: b\n", "spec.yaml, line 2: not YAML"),
        (b"\x89PNG\r\n\x1a\n", "not YAML: not UTF-8 text"),
        (b"name: a\x00b", "not YAML: unacceptable character"),
        (b"zoo: !!python/object/apply:os.getcwd []", "line 1: not YAML"),
        (b"- timm: resnet18", "a spec is a YAML mapping with at least zoo: and data:"),
        (b"", "a spec is a YAML mapping with at least zoo: and data:"),
    ],
    ids=["bracket", "tab", "binary", "nul", "tag", "list", "empty"],
)
def test_a_file_that_is_no_spec_is_one_line(refused, tmp_path, content, said):
    (tmp_path / "spec.yaml").write_bytes(content)
    (line,) = refused("plan", tmp_path / "spec.yaml", "--store", "store")
    assert str(tmp_path / "spec.yaml") in line
    assert said in line


# Several mistakes


def test_three_mistakes_are_three_lines(refused, spec_file):
    changes = {
        "recipe": {"epoch": 3, "optimizer": "adm"},
        "objectives": [{"name": "bikd", "temperature": 0}],
    }
    lines = refused("plan", spec_file(**changes), "--store", "store")
    assert len(lines) == 3
    for words in ("recipe.epoch: unknown", "recipe.optimizer: unknown", "temperature must be"):
        assert sum(words in line for line in lines) == 1, words


def test_mistakes_between_fields_are_listed_together_too(refused, spec_file):
    changes = {
        "seeds": [1, 1],
        "pairings": {"anchors": ["smal", "larg"]},
        "selection": "best_select",
    }
    lines = refused("plan", spec_file(**changes), "--store", "store")
    assert len(lines) == 4
    for words in ("'smal' is not in", "'larg' is not in", "seeds lists", "select_fraction"):
        assert sum(words in line for line in lines) == 1, words


def test_every_model_that_cannot_be_built_has_its_line(refused, spec_file):
    zoo = [
        SMALL,
        {**MEDIUM, "checkpoint": "none.pth"},
        {"factory": "tests.conftest:nett"},
        {"timm": "resnet81"},
    ]
    lines = refused("plan", spec_file(zoo=zoo), "--store", "store")
    assert len(lines) == 3
    for line, words in zip(lines, ("none.pth", "nett", "resnet81"), strict=True):
        assert words in line


# Commands that train, and commands that read


@pytest.mark.parametrize("command", ["sweep", "baseline"])
def test_a_sweep_that_cannot_work_is_refused_before_ray_starts(refused, spec_file, command):
    import ray

    running = ray.is_initialized()
    (line,) = refused(command, spec_file(zoo=[SMALL, {"timm": "resnet81"}]), "--store", "store")
    assert "timm has no model 'resnet81'" in line
    assert ray.is_initialized() == running


@pytest.mark.parametrize(
    "command",
    [["partners", "ViT"], ["pairs"], ["sql", "select 1"], ["report"], ["status"]],
    ids=lambda command: command[0],
)
def test_a_store_that_is_not_there_is_named(refused, tmp_path, command):
    (line,) = refused(*command, "--store", tmp_path / "missing")
    assert f"there is no store at {tmp_path / 'missing'}" in line
    assert "run bikd sweep or bikd demo first, or give --store" in line


def test_without_a_store_the_default_is_looked_for_and_not_made(refused, tmp_path):
    (line,) = refused("partners", "ViT")
    assert f"there is no store at {tmp_path / 'empty' / 'bikd-store'}" in line


def test_a_store_of_an_unknown_scheme_is_refused(refused):
    (line,) = refused("partners", "ViT", "--store", "ftp://host/store")
    assert "ftp://host/store" in line
    assert "give a folder, s3://… or gs://…" in line


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the baselines of two models, and no jobs."""
    writer = Writer(str(tmp_path / "store"))
    for name in ("ResNet", "ViT"):
        key = {"model": name, "model_id": f"m-{name}", "weights_id": f"w-{name}", "data_id": "d"}
        baseline = {
            **dict.fromkeys(SCHEMAS["baselines"].names),
            **key,
            "eval_set": "val",
            "metric": "top1",
            "n": 0,
        }
        empty = SCHEMAS["predictions"].empty_table()
        writer.commit_baseline([baseline], {**dict.fromkeys(SCHEMAS["models"].names), **key}, empty)
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["partners", "VIT"], ["no model 'VIT'", "choose from ResNet, ViT"]),
        (["partners", "ResNt"], ["no model 'ResNt'", "did you mean 'ResNet'?"]),
        (["sql", "selec 1"], ["sql: ", 'syntax error at or near "selec"']),
        (["sql", "select * from result"], ["sql: ", "result does not exist"]),
        (["pairs", "--matrix", "--show", "deltas"], ["unknown matrix 'deltas'", "delta"]),
        (["partners", "ResNet", "--metric", "top"], ["unknown metric 'top'", "top1"]),
        (["teachers", "--eval-set", "vall"], ["no evaluation set 'vall'", "did you mean 'val'?"]),
    ],
    ids=["other case", "misspelt", "syntax", "table", "matrix", "metric", "set"],
)
def test_questions_that_the_store_cannot_answer_are_one_line(refused, store, command, said):
    (line,) = refused(*command, "--store", store)
    for words in said:
        assert words in line


def test_debug_shows_the_traceback_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bikd", "plan", str(tmp_path / "none.yaml"), "--debug"])
    with pytest.raises(cli.UserError, match=r"none\.yaml"):
        cli.main()


def test_relative_paths_are_taken_from_the_specs_folder(refused, spec_file, tmp_path):
    path = spec_file(zoo=[SMALL, {**MEDIUM, "checkpoint": "weights/w.pth"}])
    assert Path.cwd() != path.parent
    (line,) = refused("plan", path)
    assert f"checkpoint {tmp_path / 'weights' / 'w.pth'} does not exist" in line
    assert yaml.safe_load(path.read_text())["zoo"][1]["checkpoint"] == "weights/w.pth"


# bikd check


def test_check_lists_five_mistakes_of_five_kinds_at_once(bikd, spec_file):
    zoo = [
        SMALL,
        {"timm": "resnet81"},
        {"factory": "tests.conftest:nett", "alias": "misspelt"},
        {**MEDIUM, "checkpoint": "none.pth"},
    ]
    data = {"train": DIGITS["train"], "val": {"source": "folder", "path": "nowhere"}}
    spec = spec_file(zoo=zoo, data=data, recipe={"lr": -1})
    code, out, err = bikd("check", spec)
    assert code == 2
    assert "small" in out  # what is good is shown
    problems = [line for line in err.splitlines() if not line.startswith("bikd: small: ")]
    wanted = ("recipe.lr must be", "nowhere is not a folder", "resnet81", "nett", "none.pth")
    for line, words in zip(problems, wanted, strict=True):
        assert words in line


def test_check_of_a_good_spec_shows_every_model_and_pairing(bikd, spec_file):
    code, out, _ = bikd("check", spec_file(), "--format", "json")
    assert code == 0
    rows = json.loads(out)
    assert [r["kind"] for r in rows] == ["model"] * 3 + ["pairing"] * 3
    models = {r["name"]: r for r in rows if r["kind"] == "model"}
    large = models["large"]
    assert large["params"] == 48 * 8 + 8 + 8 * 4 + 4
    assert large["flops"] == 2 * (48 * 8 + 8 * 4)
    assert large["features"] == 8
    for row in rows[3:]:
        members = [models[name] for name in row["name"].split(" + ")]
        assert row["params"] == sum(m["params"] for m in members)
        assert row["memory"] > max(m["memory"] for m in members)


def test_check_compares_the_classes_and_fetch_keeps_the_weights(bikd, spec_file, tmp_path):
    store = tmp_path / "empty" / "kept"
    code, _, err = bikd("check", spec_file(data=DIGITS), "--fetch", "--store", store)
    assert code == 2
    assert err.count("outputs 4 classes, but the data has 10") == 3
    assert len(list((store / "weights" / "base").iterdir())) == 3

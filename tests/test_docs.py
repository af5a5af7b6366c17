"""The documentation tells the truth: its files, its links, its terms, its examples."""

import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import bikd_ray
from bikd_pipelines import command_reference, reference
from bikd_pipelines.cli import app
from bikd_pipelines.planning import on_gpu, paces_at
from bikd_pipelines.prices import price_lines
from bikd_ray import transfer
from bikd_ray.analysis.significance import resolvable
from bikd_ray.plan import Job, ResolvedData, ResolvedModel, all_jobs, plan
from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec, parse_spec
from bikd_ray.specs import Recipe, Spec
from bikd_ray.sweep.events import EpochEnd, JobRequest, JobResult, job_row
from bikd_ray.sweep.loggers import RunLogger
from bikd_ray.transfer import loss
from tests import synthetic
from tests.plans import COST, INPUT, SPLIT

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
GLOSSARY = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (DOCS / "glossary.md").read_text().splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| term"))
]
EXPLAINED = """zoo, pairing, member, partner, objective, job, attempt, commit, baseline, control,
net Δ, self, seed, setting, selection, tie, best set, q, verdict, cross-fit, recovered, anchor,
view, slot, trial, scheduler, searcher, recorder, lease, StoreFS, ModelSeries"""


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return "".join(page.read_text().split("```")[::2])


def anchor(heading: str) -> str:
    """What mkdocs and git's viewers call a heading."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def links() -> list[tuple[Path, str]]:
    found = ((page, re.findall(r"\]\(([^)\s]+)\)", prose(page))) for page in LINKED)
    return [(page, link) for page, all_of in found for link in all_of]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda value: getattr(value, "name", value))
def test_every_link_leads_somewhere(page, link):
    path, _, part = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    if page.is_relative_to(DOCS):  # the site has nothing else
        assert target.resolve().is_relative_to(DOCS)
    if part:
        headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE)
        assert part in map(anchor, headings)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page):
    text = prose(page)
    places = "bikd_ray|pipelines|dashboards|tests|docs"
    named = re.findall(rf"`((?:{places})/[\w./-]*[\w/])`", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_drawing_names_files_that_are_there():
    text = (DOCS / "architecture.md").read_text()
    drawing = text.split("```")[1]
    for line in drawing.splitlines():
        folder = ROOT
        for path in re.findall(r"[\w/]+(?:\.py|/)(?=\s|$)", line):
            whole = ROOT / path if "/" in path else folder / path
            assert whole.exists(), path
            folder = whole.parent


@pytest.mark.parametrize(
    ("term", "meaning", "file"), GLOSSARY, ids=[row[0].split(",")[0] for row in GLOSSARY]
)
def test_a_term_is_a_sentence_and_its_names_stand_in_the_file_that_decides_it(term, meaning, file):
    path = ROOT / file.strip("`")
    assert path.is_file()
    assert meaning.endswith((".", ".)"))
    names = re.findall(r"`(\w+)`", term)
    names += re.findall(r"`(\w*[A-Z_]\w*)`", meaning)
    text = path.read_text()
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


ANSWERS = re.findall(
    r"^(\*\*.+\?\*\*(?:.+\n)+)", (DOCS / "architecture.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.split("**")[1])
def test_what_decides_stands_where_the_architecture_says(answer):
    quoted = re.findall(r"`([^`]+)`", answer.replace("\n", " "))
    files = [name for name in quoted if "/" in name]
    text = "".join((ROOT / name).read_text() for name in files)
    text += (ROOT / "bikd_ray/store/queries.py").read_text()  # the class Store
    names = {part for name in quoted if name not in files for part in re.findall(r"\w+", name)}
    assert files
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


def test_five_decisions_are_told():
    assert len(ANSWERS) == 5


def test_the_glossary_has_every_term_once():
    terms = [re.sub(r"`| \(.*\)", "", row[0]) for row in GLOSSARY]
    whole = [row[0] for row in GLOSSARY]
    assert len(set(whole)) == len(whole)
    every = {name for term in terms for name in term.split(", ")}
    assert {name.strip() for name in EXPLAINED.split(",")} <= every


def test_the_api_page_shows_all_that_the_package_exports():
    shown = set(re.findall(r"^::: bikd_ray\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE))
    assert shown == set(bikd_ray.__all__) - {"__version__"}


@pytest.mark.parametrize("name", bikd_ray.__all__)
def test_every_exported_name_is_there_and_documented(name):
    value = getattr(bikd_ray, name)
    assert name == "__version__" or value.__doc__


def test_the_reference_of_specs_is_that_of_the_classes():
    assert (DOCS / "spec.md").read_text() == reference.spec_reference()


def test_the_reference_of_commands_is_that_of_the_command_line():
    text = (DOCS / "commands.md").read_text()
    assert text == command_reference.command_reference()
    commands = app.registered_commands
    known = {c.name or getattr(c.callback, "__name__", None) for c in commands}
    told = re.findall(r"^### bikd ([\w-]+)(?: [\w-]+)?$", text, re.MULTILINE)
    assert set(told) == known | {group.name for group in app.registered_groups}
    assert "| `--show W` |" in text
    assert "| `--wait/--no-wait` |" in text


def test_every_page_is_on_the_first_one():
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "index.md").read_text()))
    own = {str(page.relative_to(DOCS)) for page in PAGES if page.parent == DOCS} - {"index.md"}
    assert own <= linked


def test_every_field_of_a_spec_says_what_it_means():
    schema = Spec.model_json_schema()
    parts = {"Spec": schema, **schema["$defs"]}
    fields = {f"{part}.{n}": f for part, of in parts.items() for n, f in of["properties"].items()}
    assert [name for name, field in fields.items() if not field.get("description")] == []


def test_a_class_without_a_heading_is_named(monkeypatch):
    monkeypatch.delitem(reference.SECTIONS, Recipe)
    with pytest.raises(LookupError, match=r"differ in Recipe$"):
        reference.spec_reference()


def test_the_site_shows_every_page():
    text = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1].split("\ntheme:")[0]
    shown = re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE)
    assert sorted(shown) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_the_hours_of_ten_models_are_those_of_the_plans_formula():
    """Of docs/imagenet.md: jobs, FLOPs, hours and dollars, from its own table of costs."""
    text = (DOCS / "imagenet.md").read_text()
    whole = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    giga = {name: float(cost) for name, cost in re.findall(r"(\w+) \| ([\d.]+)(?= \|)", text)}
    counts = {"train": 1_281_167, "val": 50_000}
    assert set(giga) >= {entry["alias"] for entry in whole["zoo"]}

    def jobs_of(changes: dict) -> tuple[Spec, list[Job]]:
        spec = parse_spec({**whole, **changes, "store": None})
        train, val = (replace(SPLIT, count=count) for count in counts.values())
        data = ResolvedData(spec.data, "d", "s", train, val, 1000, None)
        zoo = {
            e.name: ResolvedModel(
                e, e.name, e.name, INPUT, 1000, replace(COST, flops=round(1e9 * giga[e.name]))
            )
            for e in spec.zoo
        }
        return spec, all_jobs(spec, zoo, data)

    def total(changes: dict) -> tuple[int, float]:
        _, jobs = jobs_of(changes)
        return len(jobs), sum(job.flops for job in jobs)

    spec, jobs = jobs_of({})
    asked = plan(jobs, set(), {})
    shown = price_lines(spec, asked, paces_at(asked, 20), 2.5, on_gpu()[1])
    assert text.split("--tflops 20 --price 2.50\n")[1].split("```")[0].splitlines() == shown
    short, tenth = {"epochs": 5}, {"epochs": 5, "train_fraction": 0.1}
    anchors = {"pairings": {"anchors": ["ResNet"]}}
    wanted = [{}, anchors, {"recipe": short}, {"recipe": tenth}, {"recipe": tenth, **anchors}]
    rows = re.findall(r"\| (\d+) \| ([\d.]+) \| ([\d,]+) \| \$([\d,]+) \|$", text, re.MULTILINE)
    assert len(rows) == len(wanted)
    for (jobs, exa, hours, dollars), changes in zip(rows, wanted, strict=True):
        count, flops = total(changes)
        assert int(jobs) == count
        assert float(exa) == pytest.approx(flops / 1e18, rel=0.02)
        assert int(hours.replace(",", "")) == round(flops / 20e12 / 3600)
        assert int(dollars.replace(",", "")) == round(2.5 * flops / 20e12 / 3600)
    few = [["ResNet", other] for other in ("ConvNeXt", "Swin", "ViT")]
    count, flops = total({"pairings": {"list": few}, "seeds": [0, 1, 2, 3, 4]})
    assert f"is {count} jobs, {flops / 20e12 / 3600:.0f} GPU-hours" in text
    for share, said in ((0.02, "±0.12 pp"), (0.04, "±0.18 pp")):
        assert f"±{resolvable(counts['val'], share):.2f} pp" == said
        assert said in text


@pytest.mark.parametrize("package", ["bikd_ray", "pipelines/*", "dashboards/*"])
def test_every_package_says_that_it_is_typed(package):
    assert [path.parent for path in ROOT.glob(f"{package}/__init__.py")] == [
        path.parent for path in ROOT.glob(f"{package}/py.typed")
    ]


# -- the examples of extend.md ---------------------------------------------------------


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Runs the code of one section of extend.md in an empty folder; returns its names."""
    monkeypatch.chdir(tmp_path)
    objectives = dict(transfer.OBJECTIVES)
    monkeypatch.setattr(transfer, "OBJECTIVES", objectives)
    monkeypatch.setattr(loss, "OBJECTIVES", objectives)

    def run(title: str) -> SimpleNamespace:
        text = (DOCS / "extend.md").read_text()
        section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
        names: dict = {}
        for block in section.split("```python\n")[1:]:
            exec(block.split("```")[0], names)
        return SimpleNamespace(**names)

    return run


def test_the_task_is_measured_and_taught(example):
    found = example("A task")
    assert found.found.values["mae"] > 0
    assert all(network[1].weight.grad is not None for network in found.networks)


def test_the_objective_teaches_where_the_teacher_is_sure(example):
    found = example("An objective")
    logits, labels = 3 * torch.randn(3, 60, 4), torch.arange(60) % 4
    teachers = found.joint_loss(logits, labels, "bikd_sure").teacher.tolist()
    for n, label in enumerate(labels):
        given = [float(logits[k, n].softmax(0)[label]) for k in range(3)]
        assert teachers[n] == (given.index(max(given)) if max(given) >= 0.5 else -1)
    assert -1 in teachers
    assert len(set(teachers)) == 4


def test_the_data_source_gives_images_and_refuses_what_it_cannot_read(example):
    found = example("A data source")
    with pytest.raises(found.UserError, match=r"nowhere\.npz"):
        found.ArrayImages("nowhere.npz")


def test_the_model_sources_build_networks(example):
    network = example("A source of models").network
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


def test_the_logger_writes_what_a_job_reports(example, spec_file, tmp_path):
    found = example("A logger")
    spec = load_spec(spec_file())
    job = next(iter(plan_jobs(spec, str(tmp_path / "store"))))
    request, said = JobRequest(job, "watched", "/nowhere"), []
    logger = RunLogger(found.Logger(name="tensorboard", dir="runs"), found.CsvRun, said.append)
    logger.requests = {job.job_id: request}
    trial = SimpleNamespace(config={"job_id": job.job_id})
    logger.on_trial_start(0, [trial], trial)
    rows = [{"model": "small", "score": 50.0, "loss": None}]
    logger.on_trial_result(0, [trial], trial, {"message": EpochEnd(1, 2, rows)})
    failed = JobResult(job_row(request, 1.0, {}, "NaN loss\nTraceback"))
    logger.on_trial_result(0, [trial], trial, {"message": failed})
    logger.close()
    assert said == []
    lines = Path("runs", "watched", f"{job.job_id}.csv").read_text().splitlines()
    assert lines == ["1,small/top1,50.0", "end,error,NaN loss"]


def test_the_figure_draws_the_answer(example, tmp_path):
    found = example("A figure")
    effects = {(learner, "b"): 8.0 for learner in "ac"}
    world = synthetic.World(names=("a", "b", "c"), effects=effects)
    teachers = bikd_ray.open_store(synthetic.made(tmp_path / "store", world)).teachers()
    info = found.teachers_info(teachers)
    assert info[0].model == "b"
    plot = found.teachers_plot(teachers)
    marks = plot.figure.data[0]
    assert list(marks.y) == [bar.model for bar in info]
    assert marks.x[0] == max(teachers["teaches"].to_pylist())
    assert marks.error_x.array[0] == info[0].teaches.high - info[0].teaches.value
    assert plot.says.startswith("Who teaches: b adds most, +")

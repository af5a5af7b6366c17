"""Ray is entered by its public doors; what is not is in one short list, and can be missing."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from bikd_ray.sweep import ray_private

ROOT = Path(__file__).parent.parent
PRODUCT = [
    f for part in ("bikd_ray", "pipelines", "dashboards") for f in (ROOT / part).rglob("*.py")
]
LIST = ROOT / "bikd_ray" / "sweep" / "ray_private.py"


def private_of_ray(source: str) -> Iterator[str]:
    """What a module takes of Ray that is not public: imports, attributes, modules by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in names if is_private(name)]
            yield from {node.module} if is_private(node.module) else found
        elif isinstance(node, ast.Attribute) and is_private(dotted(node)):
            yield dotted(node)
        elif isinstance(node, ast.Call) and any(is_named(a) for a in node.args):
            yield from (str(a.value) for a in node.args if is_named(a))


def is_named(node: ast.AST) -> TypeGuard[ast.Constant]:
    """Whether it is a string that names a private module of Ray."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value)


def is_private(name: str) -> bool:
    first, *parts = name.split(".")
    inside = "ray.train.v2." in f"{name}."  # where Train's public names are kept
    return first == "ray" and (inside or any(part.startswith("_") for part in parts))


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("source", [
    "import ray._private.services",
    "from ray._private import services",
    "from ray import _private",
    "from ray.train.v2._internal.constants import X",
    "from ray.train.v2.api.config import LoggingConfig",
    "def f():\n  import ray\n  ray._private.worker.global_worker",
    "import_module('ray.tune._structure_refactor')",
])  # fmt: skip
def test_each_way_to_something_private_is_seen(source):
    assert list(private_of_ray(source))


def test_what_is_public_is_no_private_door():
    source = (
        "import ray\nfrom ray.tune.search import Searcher\nfrom ours._private import x\nray.init()"
    )
    assert not list(private_of_ray(source))


def test_nothing_private_of_ray_is_used_but_what_the_list_gives_a_reason_for():
    assert len(PRODUCT) > 50
    found = {file: set(private_of_ray(file.read_text())) for file in PRODUCT}
    assert found.pop(LIST) == ray_private.ALLOWED.keys()
    assert {str(file): names for file, names in found.items() if names} == {}


def test_a_ray_without_them_is_done_without(monkeypatch):
    for module in ray_private.ALLOWED:
        monkeypatch.setitem(sys.modules, module, None)  # an ImportError
    ray_private.hand_to_controllers("ANY")
    assert ray_private.address_of_auto() is None


def test_this_ray_has_them():
    from ray.train.v2._internal.constants import get_env_vars_to_propagate

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIKD_TEST_VARIABLE", "1")
        patch.setenv("RAY_ADDRESS", "192.0.2.9:7")
        ray_private.hand_to_controllers("BIKD_TEST_VARIABLE")
        assert get_env_vars_to_propagate()["BIKD_TEST_VARIABLE"] == "1"
        assert ray_private.address_of_auto() == "192.0.2.9:7"


def test_the_largest_package_is_that_of_this_ray():
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    from bikd_ray.sweep.runtime_env import LARGEST_PACKAGE

    assert LARGEST_PACKAGE == GCS_STORAGE_MAX_SIZE

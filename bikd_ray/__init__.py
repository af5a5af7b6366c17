"""Which models of a zoo can teach each other what, and what do I gain?

    spec = bikd_ray.load_spec("sweep.yaml")
    bikd_ray.run_sweep(spec)
    bikd_ray.open_store(spec.store).partners("PiT-B")

Importing this package loads neither torch nor Ray; the functions that need them do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load_spec": "bikd_ray.spec_file",
    "plan_jobs": "bikd_ray.resolve",
    "run_sweep": "bikd_ray.sweep.engine",
    "open_store": "bikd_ray.store",
}

__all__ = ["__version__", "load_spec", "open_store", "plan_jobs", "run_sweep"]

if TYPE_CHECKING:
    from bikd_ray.resolve import plan_jobs
    from bikd_ray.spec_file import load_spec
    from bikd_ray.store import open_store
    from bikd_ray.sweep.engine import run_sweep


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bikd_ray' has no attribute {name!r}")

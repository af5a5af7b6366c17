"""Which of your pretrained models can improve which, and by how much?

    spec = bikd_ray.load_spec("sweep.yaml")
    bikd_ray.run_sweep(spec)
    bikd_ray.open_store(spec.store).partners("PiT-B")

Importing this package loads neither torch nor Ray; the functions that need them do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "EvaluationReport": "bikd_ray.sweep.engine",
    "Spec": "bikd_ray.specs",
    "Store": "bikd_ray.store",
    "SweepReport": "bikd_ray.sweep.engine",
    "joint_loss": "bikd_ray.transfer",
    "load_spec": "bikd_ray.spec_file",
    "open_store": "bikd_ray.store",
    "plan_jobs": "bikd_ray.resolve",
    "run_baseline_sweep": "bikd_ray.sweep.engine",
    "run_evaluation": "bikd_ray.sweep.engine",
    "run_sweep": "bikd_ray.sweep.engine",
}

__all__ = [
    "EvaluationReport",
    "Spec",
    "Store",
    "SweepReport",
    "__version__",
    "joint_loss",
    "load_spec",
    "open_store",
    "plan_jobs",
    "run_baseline_sweep",
    "run_evaluation",
    "run_sweep",
]

if TYPE_CHECKING:
    from bikd_ray.resolve import plan_jobs
    from bikd_ray.spec_file import load_spec
    from bikd_ray.specs import Spec
    from bikd_ray.store import Store, open_store
    from bikd_ray.sweep.engine import (
        EvaluationReport,
        SweepReport,
        run_baseline_sweep,
        run_evaluation,
        run_sweep,
    )
    from bikd_ray.transfer import joint_loss


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bikd_ray' has no attribute {name!r}")

"""What is learned and measured: one file for each kind of task, one row here."""

import importlib
import inspect
from typing import TYPE_CHECKING

from bikd_ray.errors import UserError, choices

if TYPE_CHECKING:
    from bikd_ray.tasks.base import Task

TASKS: dict[str, str] = {
    "classification": "bikd_ray.tasks.classification:Classification",
    "saliency": "bikd_ray.tasks.saliency:Saliency",
    "segmentation": "bikd_ray.tasks.segmentation:Segmentation",
}
"""Name to `module:Class`; a spec may name another class in the same way."""

DEFAULT = "classification"


def check_name(name: str) -> None:
    """Raises UserError for what can be no task's name; loads nothing."""
    module, _, attribute = name.partition(":")
    if name not in TASKS and not (module and attribute):
        raise UserError(f"unknown task {name!r}; {choices(name, TASKS)}, or MODULE:CLASS")


def task_of(name: str = DEFAULT) -> "Task":
    """The task of a name, or of a class that is named with its module (`my_package.depth:Depth`).

    What its methods give is checked for its shape. Loads torch. Raises UserError with the names
    that there are, or with what is wrong with the class.
    """
    from bikd_ray.tasks.base import Task
    from bikd_ray.tasks.checked import Checked

    check_name(name)
    module, _, attribute = TASKS.get(name, name).partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise UserError(
            f"task {name}: cannot import {module} ({type(error).__name__}: {error}); "
            "it must be importable from where the command runs"
        ) from None
    cls = getattr(found, attribute, None)
    if cls is None:
        classes = [n for n, v in vars(found).items() if inspect.isclass(v) and issubclass(v, Task)]
        classes = [n for n in classes if n != "Task"]
        raise UserError(f"task {name}: {module} has no {attribute}; {choices(attribute, classes)}")
    if not (inspect.isclass(cls) and issubclass(cls, Task)):
        raise UserError(f"task {name}: {attribute} is no subclass of bikd_ray.tasks.base.Task")
    if lacking := sorted(cls.__abstractmethods__):
        raise UserError(f"task {name}: {attribute} lacks {', '.join(lacking)}, which a task has")
    try:
        task = cls()
    except TypeError as error:
        raise UserError(f"task {name}: {attribute}() must take no arguments: {error}") from None
    return Checked(task)

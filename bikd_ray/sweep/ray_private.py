"""All that is taken from Ray by no public door, each with its reason and what is lost without it.

A Ray that has moved one of these costs what is said there and nothing else. A test refuses private
imports of Ray anywhere else, and any here that is not in ALLOWED.
"""

ALLOWED = {
    "ray.train.v2._internal.constants": "which variables Train hands to its controller. "
    "RunConfig.worker_runtime_env reaches the workers only, and what removes a dead trial's "
    "placement group is the controller's child. Without it: where a machine runs two clusters, "
    "the CPUs of a slot of several workers that was killed stay taken until the sweep ends.",
    "ray._private.services": "which of this machine's clusters Ray takes for `auto`, found by its "
    "processes. Without it: `auto` is not tried before Ray waits for it, up to a minute.",
}
"""Module to its reason."""


def hand_to_controllers(variable: str) -> None:
    """Have Train's controllers, and what they start, see an environment variable of this one."""
    try:
        from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
    except ImportError:
        return
    ENV_VARS_TO_PROPAGATE.add(variable)


def address_of_auto() -> str | None:
    """HOST:PORT of the cluster that Ray takes for `auto`; None where this Ray does not tell.

    Raises ConnectionError where there is none, ValueError for a $RAY_ADDRESS of another form.
    """
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:
        return None
    return canonicalize_bootstrap_address("auto")

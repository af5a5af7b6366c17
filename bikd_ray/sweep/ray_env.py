"""Ray without its chatter. Import this before Ray: some of it is read when Ray is imported."""

import logging
import os

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # what the raylet prints on our standard output
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # factories are imported from where the person stands
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # a slot's messages do not wait for Train's poll, but its start does
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # processes that a slot of one node-local worker has no use for
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}

NEEDED = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: connection.interruptible
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # the scheduler knows how many jobs fit
}
"""Without these a sweep does not work as it should."""

for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
os.environ.update(NEEDED)
for name in ("ray.tune", "ray.train", "ray.air"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

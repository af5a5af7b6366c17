"""What classification measures; apart from the task itself, since the store reads it without torch.

Version 1 of the store knew these alone.
"""

from bikd_ray.metrics import Metric

TOP1 = Metric("top1", "top-1", "%", binary=True)
TOP5 = Metric("top5", "top-5", "%", binary=True)
NLL = Metric("nll", "NLL", "nats", higher_is_better=False)
ECE = Metric("ece", "ECE", higher_is_better=False, pooled=True)

METRICS = (TOP1, TOP5, NLL, ECE)
"""The first is primary."""

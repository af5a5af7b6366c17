"""Names by which the Hugging Face Hub knows tasks and metrics, for the cards of exported models."""

from bikd_ray.metrics import Metric

PIPELINES = {"top1": "image-classification", "miou": "image-segmentation"}
"""What a model does, one of the Hub's pipelines, by the primary metric."""

OTHERS = {"cc": "video-saliency"}
"""What a model does where the Hub has no pipeline: a tag."""

METRICS = {"top1": "accuracy", "miou": "mean_iou"}


def pipeline(primary: Metric) -> str | None:
    """The Hub's pipeline of models that are judged by this metric; None where it has none."""
    return PIPELINES.get(primary.name)


def tag(primary: Metric) -> str | None:
    """By which people look for models that are judged by this metric."""
    return pipeline(primary) or OTHERS.get(primary.name)


def metric_name(metric: Metric) -> str:
    """A metric's name on the Hub, or its own."""
    return METRICS.get(metric.name, metric.name)

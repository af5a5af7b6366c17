"""What is measured: all that the store, the answers and the pages know of a task.

A metric is a vector of scores, one for each unit of a set (an image; for video, a video), and its
mean is the metric. Intervals, ties and tests are of such vectors, whatever task they come from.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric.

    name: in the store and on the command line. title: for people. unit: "%" (then scores are
    percent, and differences percentage points), "nats", or nothing. binary: each score is 0 or 1,
    so that flips, McNemar's test, overlaps of errors and cases exist. pooled: a ratio of sums over
    the set; scores are its influence values, and the metric of a part of the set is worked out
    anew. units: what was drawn at random, of each of which there is a score, for people.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool = True
    binary: bool = False
    pooled: bool = False
    units: str = "images"

    @property
    def sign(self) -> int:
        """1, or -1 where lower is better: a gain is the sign times after less before."""
        return 1 if self.higher_is_better else -1


KNN = Metric("knn", "k-NN", "%", binary=True)
"""Of probes, whatever the task: whether the nearest images vote for an image's class."""

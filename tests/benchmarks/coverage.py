"""How often 95% intervals cover the truth, by how they weigh seeds: the reason for Cochran & Cox.

python tests/benchmarks/coverage.py
"""

import numpy as np
from scipy import stats

RUNS = 200_000


def main() -> None:
    rng = np.random.default_rng(0)
    print("seeds  seed/image variance  Satterthwaite  Cochran & Cox  width ratio")
    for seeds in (2, 3, 5):
        for ratio in (0, 0.1, 0.5, 2, 10, 100):
            error = rng.normal(0, np.sqrt(1 + ratio), RUNS)
            seen = ratio * rng.chisquare(seeds - 1, RUNS) / (seeds - 1)
            total = 1 + seen
            df = total**2 / (seen**2 / (seeds - 1) + 1e-4)
            satterthwaite = stats.t.ppf(0.975, df) * np.sqrt(total)
            weighed = stats.norm.ppf(0.975) + stats.t.ppf(0.975, seeds - 1) * seen
            cochran = weighed / total * np.sqrt(total)
            covered = [(np.abs(error) < half).mean() for half in (satterthwaite, cochran)]
            print(
                f"{seeds:5d}  {ratio:19g}  {covered[0]:13.3f}  {covered[1]:13.3f}"
                f"  {cochran.mean() / satterthwaite.mean():11.2f}"
            )


if __name__ == "__main__":
    main()

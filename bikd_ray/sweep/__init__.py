"""The sweep: baselines, then every job as a Ray Tune trial; the only part that imports Ray.

Nothing is imported here, so that Ray's small helper processes stay small.
"""

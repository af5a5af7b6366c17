"""`python -m pipelines` is the `bikd` command."""

from pipelines.cli import main

main()

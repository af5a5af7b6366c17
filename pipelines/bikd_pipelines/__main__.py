"""`python -m bikd_pipelines` is the `bikd` command."""

from bikd_pipelines.cli import main

main()

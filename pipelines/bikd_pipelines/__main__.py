"""`python -m bikd_pipelines` is the `bikd` command."""

from bikd_pipelines.cli import main

if __name__ == "__main__":  # not in processes that are started from here
    main()

"""What a person runs: the command line, ready-made specs, the demo."""

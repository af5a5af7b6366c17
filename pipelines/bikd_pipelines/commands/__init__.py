"""The commands of `bikd`, by what a person is doing. Each is a thin face: parse, call, show.

They import what they call when they are called: `bikd --help` loads no torch and no Ray.
"""

"""How to measure: one file for each kind of task."""

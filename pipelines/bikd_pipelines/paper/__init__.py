"""The paper that this project rests on: what it prints, and ours beside it."""

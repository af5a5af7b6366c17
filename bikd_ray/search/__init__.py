"""The search for best partners: which pairs of a map to train, and what may be said of them.

`state` is what is known, `choose` makes a `decision` of it, `answers` says what may be claimed,
`replay` searches what is stored already, `checks` refuses. Nothing here reads a store, trains, or
knows of Ray.
"""

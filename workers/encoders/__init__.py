"""How codes, scales and biases are chosen inside a format, and how they are stored.

`registry` is the way in: `encode` for a weight alone, `ModuleEncoder` with statistics.
"""

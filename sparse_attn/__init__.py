"""The shared package of the book "Sparse attention, measured".

Each module is one room: import the one you need, `from sparse_attn import cost`.
This file imports nothing, so that `python -m sparse_attn` can say what is missing.
"""

__version__ = "0.1.0"

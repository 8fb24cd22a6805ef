"""Selection that sees the keys: `learned` indexers, the `baselines` beside them, what
stands for the `rest`, how both are fitted (`distill`) and put into a GPT (`model`).

`from sparse_attn import indexer`, then indexer.LowRank(heads=4, width=32, rank=8) ...
"""

from sparse_attn.indexer.baselines import (
    BlockBounds,
    BlockMean,
    Nothing,
    Oracle,
    Previous,
    Random,
    Recent,
)
from sparse_attn.indexer.distill import distill, fit_corrections
from sparse_attn.indexer.learned import LowRank, Positions, SharedIndexer
from sparse_attn.indexer.model import QKV, keys_kept, selecting, signals
from sparse_attn.indexer.rest import (
    BLOCK,
    RESTS,
    Correction,
    Half,
    halves,
    joined,
    selected_attention,
)
from sparse_attn.indexer.selector import EMPTY, Mass, Selector, pairs_of

__all__ = [
    "BLOCK",
    "EMPTY",
    "QKV",
    "RESTS",
    "BlockBounds",
    "BlockMean",
    "Correction",
    "Half",
    "LowRank",
    "Mass",
    "Nothing",
    "Oracle",
    "Positions",
    "Previous",
    "Random",
    "Recent",
    "Selector",
    "SharedIndexer",
    "distill",
    "fit_corrections",
    "halves",
    "joined",
    "keys_kept",
    "pairs_of",
    "selected_attention",
    "selecting",
    "signals",
]

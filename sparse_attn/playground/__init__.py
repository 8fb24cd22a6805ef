"""The playground: one setting of attention, its costs, evidence and a word of advice.

`choice` knows what can be asked, `methods` puts together the formulas of `cost`,
`estimate` turns them into seconds on one of the `profiles`, `evidence` finds what was
measured nearby, `advice` has the rules, `rows` what is shown. Two forms show it: `live`
with `race`, and a `page` whose `script` runs the `program` that `formulas` writes down.

`from sparse_attn import playground`, then playground.dashboard().
"""

from sparse_attn.playground.advice import advise
from sparse_attn.playground.choice import Choice
from sparse_attn.playground.estimate import Estimate, estimate
from sparse_attn.playground.live import dashboard
from sparse_attn.playground.profiles import PROFILES, Profile

__all__ = [
    "PROFILES",
    "Choice",
    "Estimate",
    "Profile",
    "advise",
    "dashboard",
    "estimate",
]

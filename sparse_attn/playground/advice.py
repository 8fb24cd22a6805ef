"""One sentence of advice on an estimate, by rules over its numbers.

Knows the rules, the first that applies speaks; leaves the numbers to `estimate`. Each
takes an Estimate, or symbols under the same names, so that a page has the same rules.
"""

from __future__ import annotations

from sparse_attn.kernels import crossover
from sparse_attn.playground.choice import (
    FULL,
    LISTED,
    PUBLISHED,
    SQUARES,
    WINDOW,
)
from sparse_attn.playground.methods import published_weights
from sparse_attn.playground.rows import limit
from sparse_attn.playground.words import Text

LITTLE = 0.1  # of a layer's time; whoever spares all of it gains a ninth
LOST = 0.01  # bits per byte: what a choice may cost without a warning
MOST = 0.5  # of the FLOPs: finding keys takes more than using them


def advise(e) -> Text:
    """The sentence of the first of RULES that applies; the last one always does."""
    return next(text for rule in RULES if (text := rule(e)) is not None)


def waits(e) -> bool:
    """Whether memory is the limit."""
    return limit(e.bounds.intensity, e.bounds.ridge) == "memory"


def squares_are_never_needed(e):
    if e.choice.method == SQUARES:
        return Text(
            "Do not store the squares: a fused kernel gives the same result, and this "
            "moves {0:three} times its bytes and holds {1:three} times its memory.",
            (e.own.moved / e.full.moved, e.own.extra / e.full.extra),
        )


def published_costs_more(e):
    if e.choice.method == PUBLISHED and e.own.flops >= e.full.flops:
        return Text(
            "Not as published: it has {0:three} times the FLOPs of full attention, "
            "for the selector answers every query with {1:count} logits.",
            (e.own.flops / e.full.flops, e.choice.T),
        )


def published_takes_longer(e):
    if e.choice.method == PUBLISHED and e.bounds.gain <= 1:
        return Text(
            "Not as published: it has {0:percent} of full attention's FLOPs, but moves "
            "{1:three} times the bytes and takes {2:three} times as long at least.",
            (
                e.own.flops / e.full.flops,
                e.own.moved / e.full.moved,
                1 / e.bounds.gain,
            ),
        )


def published_is_worse(e):
    if e.choice.method == PUBLISHED:
        return Text(
            "Cheaper on paper, {0:percent} of full attention's FLOPs, but with "
            "{1:count} weights a layer for one length, and worse than deleting the "
            "head in chapter 9.",
            (e.own.flops / e.full.flops, published_weights(e.choice)),
        )


def all_keys_are_kept(e):
    if e.choice.method != FULL and e.choice.K >= e.choice.T:
        return Text(
            "K = {0:count} covers all {1:count} tokens: use full attention, there is "
            "nothing to leave out.",
            (e.choice.K, e.choice.T),
        )


def attention_is_a_small_part(e):
    if e.bounds.share < LITTLE:
        return Text(
            "Leave attention as it is: {0:percent} of a layer's time is all that full "
            "attention takes here, so free attention would make the model "
            "{1:three} times as fast.",
            (e.bounds.share, 1 / (1 - e.bounds.share)),
        )


def prompt_waits_for_memory(e):
    if e.choice.method == FULL and e.choice.task == "prefill" and waits(e):
        return Text(
            "Stay with full attention: bytes are the limit, and {0:size} of q, k, v "
            "and output are moved by any method.",
            (e.own.moved,),
        )


def token_waits_for_memory(e):
    if e.choice.method == FULL and waits(e):
        return Text(
            "Bytes are the limit, {0:size} of keys and values a layer: fewer key-value "
            "heads, fewer bytes per value, or fewer keys read help alike.",
            (e.own.cache,),
        )


def full_below_the_crossover(e):
    if e.choice.method == FULL and crossover(e.choice.K) >= e.choice.T:
        return Text(
            "Stay with full attention: the package takes {0:count} chosen keys only "
            "beyond {1:count} tokens, a rule that was measured on a CPU.",
            (e.choice.K, crossover(e.choice.K)),
        )


def full_waits_for_arithmetic(e):
    if e.choice.method == FULL:
        return Text(
            "Arithmetic is the limit, so only fewer pairs help: the package takes "
            "{0:count} chosen keys beyond {1:count} tokens, a rule that was measured "
            "on a CPU.",
            (e.choice.K, crossover(e.choice.K)),
        )


def below_the_crossover(e):
    if e.choice.method in LISTED and crossover(e.choice.K) >= e.choice.T:
        return Text(
            "Use full attention: the package takes {0:count} chosen keys only beyond "
            "{1:count} tokens, a rule that was measured on a CPU.",
            (e.choice.K, crossover(e.choice.K)),
        )


def no_faster(e):
    if e.bounds.gain <= 1:
        return Text(
            "Use full attention: this takes {0:three} times as long, even at its best.",
            (1 / e.bounds.gain,),
        )


def too_much_is_lost(e):
    if e.lost > LOST and e.choice.method == WINDOW:
        return Text(
            "A window is cheap and blind: it lost {0:three} bits per byte where it "
            "was measured; choose keys, or keep more than {1:count}.",
            (e.lost, e.choice.K),
        )
    if e.lost > LOST:
        return Text(
            "Keep more keys or use finer blocks: this lost {0:three} bits per byte "
            "where it was measured.",
            (e.lost,),
        )


def finding_takes_more(e):
    others = 1 - e.own.attending / e.own.flops
    if others > MOST:
        return Text(
            "Coarser blocks would help: {0:percent} of the FLOPs go to finding keys "
            "and to the rest, and only what is left to the keys that are kept.",
            (others,),
        )


def lists_live_from_the_cache(e):
    if e.bounds.gathering > e.bounds.seconds:
        return Text(
            "{0:three} times as fast as full attention, if a cache holds the keys: "
            "read anew for each list of {1:count} queries they take {2:seconds}, so "
            "let more queries share one.",
            (e.bounds.gain, e.choice.block_q, e.bounds.gathering),
        )


def it_pays(e):
    if waits(e):
        last = "bytes are the limit now, so fewer of them help, and not fewer FLOPs."
    else:
        last = "arithmetic is the limit now, so fewer keys help further."
    return Text(
        "{0:three} times as fast as full attention at best, and the whole model "
        "{1:three} times: " + last,
        (e.bounds.gain, e.bounds.whole),
    )


RULES = (
    squares_are_never_needed,
    published_costs_more,
    published_takes_longer,
    published_is_worse,
    all_keys_are_kept,
    attention_is_a_small_part,
    prompt_waits_for_memory,
    token_waits_for_memory,
    full_below_the_crossover,
    full_waits_for_arithmetic,
    below_the_crossover,
    no_faster,
    too_much_is_lost,
    finding_takes_more,
    lists_live_from_the_cache,
    it_pays,
)

"""The checks of the exercises: each answer gets the verdict and the reason it needs."""

import re
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch

from sparse_attn import cost
from sparse_attn import exercises as package
from sparse_attn import patterns as P
from sparse_attn.attention import attention
from sparse_attn.exercises import Function, Number, check

CHAPTERS = {
    int(module.name[-2:]): import_module(f"{package.__name__}.{module.name}").EXERCISES
    for module in iter_modules(package.__path__)
}
ALL = {name: e for exercises in CHAPTERS.values() for name, e in exercises.items()}
NUMBERS = {name: e for name, e in ALL.items() if isinstance(e, Number)}
FUNCTIONS = {name: e for name, e in ALL.items() if isinstance(e, Function)}
MISTAKES = [(name, wrong) for name, e in NUMBERS.items() for wrong in e.mistakes]


@pytest.fixture
def says(capsys):
    """What `check` prints about an answer, after "Exercise 1.2: ", on one line."""

    def ask(name, answer):
        assert check(name, answer) is None
        printed = capsys.readouterr().out
        assert max(map(len, printed.split("\n"))) <= 79
        opening, said = unwrapped(printed).split(": ", 1)
        assert opening == f"Exercise {name}"
        return said

    return ask


def unwrapped(text):
    """Text on one line; a line may also have been broken after a hyphen."""
    return re.sub(r"(?<=\w-) (?=\w)", "", " ".join(text.split()))


def one_head(T, H):
    return cost.scores(T, 64, 1).flops / cost.topk_mlp_flops(T, 64, 128, 8)


def all_heads(T, H):
    return H * one_head(T, H)


@pytest.mark.parametrize("chapter, exercises", CHAPTERS.items())
def test_exercises_are_numbered_within_their_chapter(chapter, exercises):
    assert list(exercises) == [f"{chapter}.{n + 1}" for n in range(len(exercises))]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_right_number_is_right_and_explained(says, name):
    assert says(name, NUMBERS[name].answer) == f"right. {NUMBERS[name].why}"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("part", [-0.9, 0.9])
def test_a_number_within_the_tolerance_is_right(says, name, part):
    rounded = NUMBERS[name].answer * (1 + part * NUMBERS[name].tolerance)
    assert says(name, rounded).startswith("right. ")


@pytest.mark.parametrize("name, wrong", MISTAKES)
def test_each_known_mistake_gets_its_own_reason(says, name, wrong):
    assert says(name, wrong) == f"not yet. {NUMBERS[name].mistakes[wrong]}"


@pytest.mark.parametrize("name", NUMBERS)
def test_no_known_mistake_is_right(says, name):
    for wrong in NUMBERS[name].mistakes:
        assert not says(name, wrong).startswith("right")


@pytest.mark.parametrize("name", NUMBERS)
def test_an_unknown_mistake_is_told_its_direction(says, name):
    assert says(name, 1e9 * NUMBERS[name].answer) == "not yet. That is too large."
    assert says(name, -NUMBERS[name].answer) == "not yet. That is too small."


@pytest.mark.parametrize("name", ALL)
def test_no_answer_yet_is_no_mistake(says, name):
    assert says(name, None) == "put your answer in place of None, run again."


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("answer", ["0.5", [0.5], {}, max, 1j], ids=repr)
def test_what_is_no_number_is_told_so(says, name, answer):
    assert says(name, answer) == f"not yet. {answer!r} is not a number."


@pytest.mark.parametrize("name", NUMBERS)
def test_not_a_number_is_not_called_small_or_large(says, name):
    said = says(name, float("nan"))
    assert said.startswith("not yet. ")
    assert "small" not in said and "large" not in said


@pytest.mark.parametrize("name", NUMBERS)
def test_a_whole_number_past_every_float_is_too_large(says, name):
    assert says(name, 10**400) == "not yet. That is too large."


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("answer", ["speedup", 3.0], ids=repr)
def test_what_is_no_function_is_told_so(says, name, answer):
    assert says(name, answer) == f"not yet. {answer!r} is not a function."


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_crashing_function_is_reported_not_raised(says, name):
    def crash(*_):
        raise KeyError("mine")

    assert says(name, crash) == "not yet. Your function raised KeyError: 'mine'"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_other_arguments_is_reported_not_raised(says, name):
    def other(*, none_gives_this):
        return none_gives_this

    assert says(name, other).startswith("not yet. Your function raised TypeError")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("returned", [None, "fast", float("nan"), 0.0], ids=repr)
def test_a_function_that_returns_no_answer_is_wrong(says, name, returned):
    assert says(name, lambda *_: returned).startswith("not yet. ")


def test_dividing_one_head_by_one_head_is_right(says):
    assert says("1.4", one_head) == f"right. {ALL['1.4'].why}"


def test_dividing_all_heads_by_one_is_recognized(says):
    assert "it still divides 2 heads by one" in says("1.4", all_heads)


def test_another_ratio_is_told_the_one_that_is_needed(says):
    said = says("1.4", lambda T, H: one_head(T, H) / 2)
    assert f"{one_head(64, 2) / 2:.4g}" in said and f"{one_head(64, 2):.4g}" in said


def in_blocks(memory, x, y, out, block, factor=2, again=False):
    """The answer to 4.4, or with `factor` a wrong one, or reading y twice."""
    for i in range(0, len(x), block):
        with memory.block():
            t = memory.load(x[i : i + block]).mul_(factor)
            other = memory.load(y[i : i + block])
            memory.store(out[i : i + block], t.add_(other))
            if again:
                memory.free(other)
                memory.load(y[i : i + block])


def at_once(memory, x, y, out, block):
    memory.store(out, memory.load(x).mul_(2).add_(memory.load(y)))


def test_a_fused_program_is_judged_by_its_result_its_traffic_and_its_room(says):
    assert says("4.4", in_blocks) == f"right. {ALL['4.4'].why}"
    wrong = {
        "the result is not 2x + y": lambda *a: in_blocks(*a, factor=3),
        "it moves 48 elements; 36 suffice": lambda *a: in_blocks(*a, again=True),
        "Two tiles of a block have to do": at_once,
        "12 of 12 elements are NaN": lambda *a: None,
    }
    for reason, program in wrong.items():
        assert reason in says("4.4", program)


def update(m, l, o, scores, values, rescale_l=True, rescale_o=True):
    """The answer to 5.3, or one that forgets to rescale."""
    new = torch.maximum(m, scores.max())
    p, decay = (scores - new).exp(), (m - new).exp()
    l, o = (l * decay if rescale_l else l), (o * decay if rescale_o else o)
    return new, l + p.sum(), o + p @ values


def test_an_update_that_forgets_to_rescale_is_told_what_it_forgot(says):
    assert says("5.3", update) == f"right. {ALL['5.3'].why}"
    wrong = {
        "an older maximum in them": lambda *a: update(*a, rescale_o=False),
        "not the sum": lambda *a: update(*a, rescale_l=False),
        "not the maximum": lambda m, *a: (m, *update(m, *a)[1:]),
        "a new (m, l, o) is needed": lambda *a: update(*a)[:2],
    }
    for reason, answer in wrong.items():
        assert reason in says("5.3", answer)


def test_a_delta_is_the_dot_product_of_rows(says):
    assert says("6.4", lambda out, dout: (out * dout).sum(-1)) == (
        f"right. {ALL['6.4'].why}"
    )
    assert "(1, 2, 3) is needed" in says("6.4", lambda out, dout: out * dout)
    assert "not the dot products" in says("6.4", lambda out, dout: out.sum(-1))


def three_scales():
    return P.Window(7) | (P.Every(8) & P.Window(63)) | P.Every(64)


def test_a_pattern_that_is_dear_short_or_sees_the_future_is_told_so(says):
    assert says("7.3", three_scales) == f"right. {ALL['7.3'].why}"
    wrong = {
        "23.0 keys per query": lambda: P.strided(16),
        "out of reach": lambda: P.sliding_window(20),
        "sees the future": lambda: P.Window(3, 3),
        "a pattern is needed": lambda: None,
    }
    for reason, make in wrong.items():
        assert reason in says("7.3", make)


def in_order(q, k, v, stride, causal=True):
    """The answer to 7.4, or one that forgets that the past is all there is."""
    B, H, T, D = q.shape

    def turn(x):
        x = x.reshape(B, H, -1, stride, D).permute(0, 3, 1, 2, 4)
        return x.flatten(0, 1)

    out = attention(turn(q), turn(k), turn(v), causal=causal)
    out = out.view(B, stride, H, -1, D).permute(0, 2, 3, 1, 4)
    return out.reshape(B, H, T, D)


def test_a_stride_by_reordering_must_equal_the_pattern(says):
    assert says("7.4", in_order) == f"right. {ALL['7.4'].why}"
    assert "not those of the pattern" in says(
        "7.4", lambda *a: in_order(*a, causal=False)
    )
    assert "a tensor is needed" in says("7.4", lambda *a: None)
    assert "it gives shape" in says("7.4", lambda q, *_: q[:, :, :3]).lower()


def test_a_bucket_is_among_all_of_them_and_the_right_one(says):
    def both(x, R):
        return torch.cat((x @ R, -x @ R), -1).argmax(-1)

    assert says("8.2", both) == f"right. {ALL['8.2'].why}"
    assert "Only half" in says("8.2", lambda x, R: (x @ R).argmax(-1))
    assert "in another bucket" in says("8.2", lambda x, R: (both(x, R) + 1) % 16)
    assert "a tensor is needed" in says("8.2", lambda x, R: None)


def test_crowding_counts_pairs_not_tokens(says):
    def right(sizes):
        return len(sizes) * sum(n * n for n in sizes) / sum(sizes) ** 2

    assert says("8.4", right) == f"right. {ALL['8.4'].why}"
    assert "For sizes [16, 0, 0, 0]" in says("8.4", lambda sizes: 1.0)


@pytest.mark.parametrize("name", ["1.99", "99.1", "one", "", "-1.1", "1"])
def test_an_unknown_exercise_raises(name):
    with pytest.raises(ValueError, match="exercise"):
        check(name, 1)


def test_a_causal_selector_masks_before_it_picks(says):
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)

    assert (
        says("9.3", lambda x: x.masked_fill(future, -torch.inf))
        == f"right. {ALL['9.3'].why}"
    )
    assert "still pick the future" in says("9.3", lambda x: x)
    assert "has changed too" in says("9.3", lambda x: torch.eye(9))
    assert "same shape" in says("9.3", lambda x: None)


def test_the_floor_of_a_plain_mean_is_a_root(says):
    def left(w):
        return 1 - 1 / (w.shape[-1] * w.square().sum(-1).mean())

    assert says("9.4", lambda w: left(w).sqrt()) == f"right. {ALL['9.4'].why}"
    assert "share of the energy" in says("9.4", left)
    assert "For K = 2" in says("9.4", lambda w: torch.tensor(0.5))
    assert "a number is needed" in says("9.4", lambda w: None)


def pooled(q, k, v, block, scale=True, sizes=True, by=None):
    """The answer to 10.3, or one that forgets something."""
    parts = k.split(block, -2), v.split(block, -2)
    n = torch.tensor([float(x.shape[-2]) for x in parts[0]])
    k, v = (torch.stack([x.sum(-2) for x in xs], -2) for xs in parts)
    k, v = (x / (by or n[:, None]) for x in (k, v))
    scores = q @ k.mT / (q.shape[-1] ** 0.5 if scale else 1)
    return (scores + n.log() * sizes).softmax(-1) @ v


def test_pooled_blocks_are_judged_where_the_last_is_short(says):
    assert says("10.3", pooled) == f"right. {ALL['10.3'].why}"
    wrong = {
        "Add the log of the size": lambda *a: pooled(*a, sizes=False),
        "zeros that fill up": lambda *a: pooled(*a, by=a[-1]),
        "the root of the head's width": lambda *a: pooled(*a, scale=False),
        "a tensor is needed": lambda *a: None,
        "it gives shape": lambda q, *a: q[:, :, :1],
        "the numbers are off": lambda q, *a: q,
    }
    for reason, answer in wrong.items():
        assert reason.lower() in says("10.3", answer).lower()


def prefix(weights, p, late=0, ranks=False):
    """The answer to 10.4, or one that stops earlier or later."""
    best = weights.sort(descending=True)
    before = best.values.cumsum(0) - best.values
    n = max(0, int(((before < p) & (best.values > 0)).sum()) + late)
    return torch.arange(n) if ranks else best.indices[:n]


def test_a_prefix_holds_p_and_no_key_more(says):
    assert says("10.4", prefix) == f"right. {ALL['10.4'].why}"
    assert says("10.4", lambda w, p: prefix(w, p).tolist()).startswith("right")
    wrong = {
        "The key that reaches p": lambda w, p: prefix(w, p, late=-1),
        "3 keys, and 2 hold as much": lambda w, p: prefix(w, p, late=1),
        "not yet indices": lambda w, p: prefix(w, p, ranks=True),
        "different indices": lambda w, p: [1, 1, 1],
        "a list or a tensor of indices": lambda w, p: None,
        "5 keys, and 4 hold": lambda w, p: prefix(w, p) if p < 1 else [*range(len(w))],
    }
    for reason, answer in wrong.items():
        assert reason in says("10.4", answer)


def best_past(q, k, K, first=True, empty=True):
    """The answer to 10.5, or one that masks too late, or not at all."""
    t = torch.arange(len(q))[:, None]
    scores = q @ k.mT
    if first:
        scores = scores.masked_fill(t < t.T, -torch.inf)
    best = scores.topk(K).indices
    return best.where(best <= t, -1) if empty else best


def test_a_selection_masks_the_future_before_it_spends_its_budget(says):
    assert says("10.5", best_past) == f"right. {ALL['10.5'].why}"
    wrong = {
        "after the budget was spent": lambda *a: best_past(*a, first=False),
        "picks lie in the future": lambda *a: best_past(*a, first=False, empty=False),
        "Write -1 there": lambda *a: best_past(*a, empty=False),
        "not the best": lambda q, k, K: best_past(-q, k, K),
        "shape (12, 4) is needed": lambda q, k, K: None,
    }
    for reason, answer in wrong.items():
        assert reason in says("10.5", answer)


def mended(q, k, v, chosen, block, count=True, top=True, by=None, scale=True):
    """The answer to 11.2 over all keys at once, or one with a fault."""
    keys, values, logs = [], [], []
    for i, parts in enumerate(zip(k.split(block), v.split(block), strict=True)):
        alone = i not in chosen
        n = len(parts[0])
        for kept, x in zip((keys, values), parts, strict=True):
            kept.append(x.mean(0, keepdim=True) if alone else x)
        stands = (by or n) if alone and count else 1
        logs.append(torch.full((len(keys[-1]),), float(stands)).log())
    scores = q @ torch.cat(keys).T / (q.shape[-1] ** 0.5 if scale else 1)
    scores = scores + torch.cat(logs)
    scores = scores - (scores.amax(-1, keepdim=True) if top else 0)
    w = scores.exp()
    return w @ torch.cat(values) / w.sum(-1, keepdim=True)


def test_a_mended_kernel_counts_keys_and_subtracts_the_maximum(says):
    def not_rescaled(q, k, v, chosen, block):
        parts = []
        for i in range(0, len(k), block):
            near, values = k[i : i + block], v[i : i + block]
            n, alone = len(near), i // block not in chosen
            if alone:
                near, values = near.mean(0, keepdim=True), values.mean(0, keepdim=True)
            s = q @ near.T / 8**0.5 + torch.tensor(n if alone else 1.0).log()
            parts.append((s, s.amax(-1, keepdim=True), values))
        best, total, weight = parts[0][1], 0, 0
        for s, top, values in parts:
            best = torch.maximum(best, top)
            w = (s - best).exp()
            total, weight = total + w @ values, weight + w.sum(-1, keepdim=True)
        return total / weight

    assert says("11.2", mended) == f"right. {ALL['11.2'].why}"
    wrong = {
        "a mean weighs as much as a single key": lambda *a: mended(*a, count=False),
        "may be taken off all scores": lambda *a: mended(*a, top=False),
        "an older maximum is not rescaled": not_rescaled,
        "the last block is shorter": lambda *a: mended(*a, by=a[-1]),
        "the numbers are off by": lambda *a: mended(*a, scale=False),
        "a tensor is needed": lambda *a: None,
        "gives shape (4, 8), not (5, 8)": lambda q, *a: q[:4],
    }
    for reason, answer in wrong.items():
        assert reason in says("11.2", answer)


def test_the_numbers_of_chapter_11_are_those_of_its_formulas():
    n = ALL["11.1"].answer  # a key and its value: 4 FLOPs and 4 bytes for each of D
    assert 4 * 4 * (n - 1) / 4 < 295 <= 4 * 4 * n / 4
    T = ALL["11.3"].answer
    for length, wins in ((T - 1, False), (T, True)):
        dense = 2e-9 * length * (length + 1) / 2
        assert (length * 512 * 3e-9 + 4e-3 < dense) is wins
    assert ALL["11.4"].answer / 128 * 4 == 1024 * 2 * 2


def ring_bytes(lengths, heads, D, size, tensors=2, skip=1):
    """The answer to 12.3: hop by hop, or one that forgets something."""
    n = len(lengths)
    sent = [0] * n
    for hop in range(n - 1):  # at each, rank r passes on the part that began at r - hop
        for rank in range(n):
            sent[rank] += tensors * heads * D * size * lengths[(rank - skip * hop) % n]
    return sent


def test_a_ring_sends_all_parts_but_that_of_its_receiver(says):
    assert says("12.3", ring_bytes) == f"right. {ALL['12.3'].why}"

    def received(lengths, *sizes):
        n = len(lengths)
        sent = ring_bytes(lengths, *sizes)
        return [sent[rank - 1] for rank in range(n)]

    def everything(lengths, heads, D, size):
        return [2 * heads * D * size * sum(lengths)] * len(lengths)

    wrong = {
        "for keys alone": lambda *a: ring_bytes(*a, tensors=1),
        "the part with which that one began": everything,
        "what each rank receives": received,
        "a rank sends its own part once": lambda *a: ring_bytes(*a, skip=0),
        "numbers for 4 ranks": lambda *a: ring_bytes(*a)[1:],
        "bytes, not [": lambda *a: [x + 1 for x in ring_bytes(*a)],
        "a number for each rank": lambda lengths, *_: sum(lengths),
    }
    for reason, answer in wrong.items():
        assert reason in says("12.3", answer)


def test_the_numbers_of_chapter_12_are_those_of_its_closed_forms():
    assert ALL["12.1"].answer == pytest.approx(7757.58 / 3.8685, rel=1e-4)
    T = ALL["12.2"].answer
    gains = [
        cost.whole_gain(cost.score_share(n, 4096, causal=True), 10) for n in (T - 1, T)
    ]
    assert gains[0] < 2 - 1e-6 and gains[1] == pytest.approx(2, rel=1e-12)
    token = 2 * 32 * 8 * 128 * 2 * 16  # keys and values, bytes, of 16 sequences
    assert ALL["12.4"].answer * token == 2 * 8e9

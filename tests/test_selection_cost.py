"""What selection holds: the formulas are the published table, and real tensors."""

import pytest
import torch

from sparse_attn import cost, topk


def matrices(network):
    return sum(p.numel() for p in network.parameters() if p.ndim == 2)


@pytest.mark.parametrize("T, D, hidden", [(64, 64, 64), (17, 8, 5)])
def test_parameters_are_those_of_real_networks(T, D, hidden):
    selector = topk.KeySelector(D, T, hidden)
    assert cost.selector_parameters(T, D, hidden=hidden) == matrices(selector)
    both = cost.selector_parameters(T, D, hidden=hidden, H=3, L=2)
    assert both == 6 * matrices(selector)


def test_a_selector_for_128_thousand_tokens_needs_126_billion_weights():
    n = cost.selector_parameters(128_000, 128, H=128, L=120)
    assert n == 125_954_949_120


@pytest.mark.parametrize("width, T, full, sparse", [
    (512, 512, 67.1, 4.2), (1024, 1024, 536.9, 16.8), (2048, 2048, 4295.0, 67.1),
])  # fmt: skip
def test_the_published_memory_table_is_one_number_per_pair(width, T, full, sparse):
    """Eight sequences and heads of 64, neither of them stated there."""
    how = dict(H=width // 64, B=8)
    assert round(cost.square_bytes(T, **how) / 1e6, 1) == full
    assert round(cost.kept_bytes(T, min(32, T // 8), **how) / 1e6, 1) == sparse


def test_selection_holds_what_its_tensors_hold():
    B, T, D, K = 2, 16, 8, 3
    torch.manual_seed(0)
    q, _, v = torch.randn(3, B, T, D).unbind()
    logits = topk.KeySelector(D, T)(q)
    picks = topk.pick_keys(logits, K)
    kept = picks.indices.clone()  # without what is left of the sort
    values = topk.gather_values(v, picks)
    predicted = cost.selection_bytes(T, D, K, B=B)
    real = dict(logits=logits, indices=kept, values=values)
    assert predicted == {name: x.numel() * x.itemsize for name, x in real.items()}
    assert cost.kept_bytes(T, K, B=B) * D == predicted["values"]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="K=17: a whole number from 1 to 16"):
        cost.kept_bytes(16, 17)
    with pytest.raises(ValueError, match="hidden=0"):
        cost.selector_parameters(16, 8, hidden=0)
    with pytest.raises(ValueError, match="D=0"):
        cost.selection_bytes(16, 0, 4)

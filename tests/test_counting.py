"""What the counters count: each rule on a call small enough to count by hand."""

import pytest
import torch
import torch.nn.functional as F

from sparse_attn import cost, counting
from sparse_attn.attention import attention
from sparse_attn.counting import calls

aten = torch.ops.aten


def heads(T=6, S=None, *, H=4, Hkv=None, grad=False, device="cpu"):
    """q, k, v with two sequences, head width 8."""
    shapes = ((2, H, T, 8), *2 * ((2, Hkv or H, S or T, 8),))
    return [torch.ones(s, device=device, requires_grad=grad) for s in shapes]


def fused(q, k, v, causal=False):
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)


def products(T, S, pairs=None):
    """FLOPs of q kᵀ and p v for `heads`."""
    return 4 * 2 * 4 * 8 * (T * S if pairs is None else pairs)


@pytest.mark.parametrize("T, S", [(1, 1), (6, 6), (1, 7), (97, 97), (5, 9)])
@pytest.mark.parametrize("Hkv", [1, 2, 4])
def test_fused_attention_counts_every_pair_for_every_query_head(T, S, Hkv):
    q, k, v = heads(T, S, Hkv=Hkv)
    assert counting.flops(lambda: fused(q, k, v)) == products(T, S)


@pytest.mark.parametrize("T", [1, 2, 63, 97])
@pytest.mark.parametrize("Hkv", [1, 2, 4])
def test_causal_fused_attention_counts_the_triangle(T, Hkv):
    q, k, v = heads(T, Hkv=Hkv)
    counted = counting.flops(lambda: fused(q, k, v, causal=True))
    assert counted == products(T, T, T * (T + 1) // 2)


@pytest.mark.parametrize("T, S", [(4, 7), (7, 4)])
def test_pytorchs_causal_rectangle_starts_at_the_first_key(T, S):
    q, k, v = heads(T, S)
    pairs = int(torch.ones(T, S).tril().sum())
    assert counting.flops(lambda: fused(q, k, v, causal=True)) == products(T, S, pairs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("Hkv", [2, 4])
def test_fused_backward_computes_five_products_where_forward_has_two(Hkv, causal):
    q, k, v = heads(Hkv=Hkv, grad=True)
    forward = counting.flops(lambda: fused(q, k, v, causal))
    both = counting.flops(lambda: fused(q, k, v, causal).sum().backward())
    assert both - forward == 2.5 * forward


@pytest.mark.parametrize("causal", [False, True])
def test_the_formula_computes_the_full_square_causal_or_not(causal):
    q, k, v = heads()
    counted = counting.flops(lambda: attention(q, k, v, causal=causal))
    assert counted == products(6, 6) == cost.scores(6, 32, 4, B=2).flops


def test_the_formulas_backward_has_four_products():
    q, k, v = heads(grad=True)
    both = counting.flops(lambda: attention(q, k, v).sum().backward())
    assert both == 3 * products(6, 6)


def test_sharing_key_heads_saves_no_product():
    q, k, v = heads(Hkv=2)
    assert counting.flops(lambda: attention(q, k, v)) == products(6, 6)


OPERATORS = {  # what other devices call, with is_causal where their schemas have it
    "flash": (aten._scaled_dot_product_flash_attention, (0.0, True)),
    "efficient": (
        aten._scaled_dot_product_efficient_attention,
        (None, True, 0.0, True),
    ),
    "cudnn": (aten._scaled_dot_product_cudnn_attention, (None, True, 0.0, True)),
    "mps": (aten._scaled_dot_product_attention_math_for_mps, (None, 0.0, True)),
}


@pytest.mark.parametrize("operator, options", OPERATORS.values(), ids=OPERATORS)
def test_the_fused_kernels_of_other_devices_count_the_triangle_too(operator, options):
    count = calls._fused_attention()[operator]
    given = heads(device="meta")
    assert count(*given, *options) == products(6, 6, 21)
    assert count(*given, *options[:-1], False) == products(6, 6)


def test_flops_are_listed_by_operator():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    counted = counting.flops_by_operator(lambda: ((a @ b).relu(), a[None] @ b[None]))
    assert counted == {"aten.mm": 2 * 60, "aten.bmm": 2 * 60}


def test_a_call_without_products_costs_no_flops():
    x = torch.ones(3)
    assert counting.flops(lambda: x.exp() + x) == 0


def test_a_matrix_times_a_vector_is_a_product():
    a, x = torch.ones(5, 8), torch.ones(8)
    assert counting.flops(lambda: a @ x) == 2 * 5 * 8


def test_flops_need_no_memory_on_the_meta_device():
    a = torch.ones(100_000, 100_000, device="meta")
    assert counting.flops(lambda: a @ a) == 2 * 10**15


def moves(fn):
    counted = counting.traffic(fn)
    assert counted.moved == counted.read + counted.written
    assert sum(counted.by_operator.values()) == counted.moved
    return counted.read, counted.written


X = torch.ones(2, 3, 8)  # 192 bytes
VIEWS = {
    "transpose": lambda: X.transpose(0, 1),
    "mT": lambda: X.mT,
    "permute": lambda: X.permute(2, 0, 1),
    "reshape": lambda: X.reshape(6, 8),
    "flatten": lambda: X.flatten(),
    "expand": lambda: X[:, :, None].expand(2, 3, 5, 8),
    "slice": lambda: X[:, 1:, ::2],
    "unbind": lambda: X.unbind(),
    "split": lambda: X.split(2, dim=1),
    "contiguous": lambda: X.contiguous(),
    "detach": lambda: X.detach(),
    "same dtype": lambda: X.to(torch.float32),
    "transpose in place": lambda: X.view(2, 3, 8).transpose_(0, 1),
    "unsqueeze in place": lambda: X.view(2, 3, 8).unsqueeze_(0),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_moves_nothing(view):
    assert moves(view) == (0, 0)


def test_reserving_memory_moves_nothing():
    assert moves(lambda: (torch.empty(9), torch.empty_like(X), X.new_empty(3))) == (
        0,
        0,
    )


def test_a_reshape_that_must_copy_is_counted():
    assert moves(lambda: X.transpose(0, 1).reshape(6, 8)) == (192, 192)


def test_every_input_is_read_and_the_output_written():
    a, b, c = torch.ones(3, 4), torch.ones(4, 5), torch.ones(5)
    assert moves(lambda: torch.addmm(c, a, b)) == (4 * (5 + 12 + 20), 4 * 15)


def test_every_output_is_written():
    assert moves(lambda: X.max(dim=-1)) == (192, 6 * 4 + 6 * 8)


def test_inputs_in_a_list_are_read():
    other = torch.ones(2, 1, 8)
    assert moves(lambda: torch.cat([X, other], dim=1)) == (192 + 64, 256)


def test_a_tensor_given_twice_is_read_once():
    assert moves(lambda: X * X) == (192, 192)
    assert moves(lambda: X[:, 1:] * X[:, 1:]) == (128, 128)


def test_two_parts_of_one_tensor_are_two_inputs():
    assert moves(lambda: X[:, :2] * X[:, 1:]) == (256, 128)


@pytest.mark.parametrize("T", [7, 8, 9])
def test_a_square_and_its_transpose_are_read_like_any_other_pair(T):
    x = torch.ones(T, 8)
    assert moves(lambda: x @ x.T) == (2 * 4 * 8 * T, 4 * T * T)


def test_only_the_part_in_view_is_read():
    assert moves(lambda: X[0] + 1) == (96, 96)


def test_an_operation_in_place_reads_and_writes_its_tensor():
    a, b, c = torch.ones(4), torch.ones(4), torch.ones(4)
    assert moves(lambda: a.mul_(2)) == (16, 16)
    assert moves(lambda: a.add_(b)) == (32, 16)
    assert moves(lambda: a.addcmul_(b, c)) == (48, 16)


def test_operations_on_lists_in_place_are_counted_like_single_ones():
    a, b = torch.ones(4), torch.ones(6)
    assert moves(lambda: torch._foreach_mul_([a, b], 2.0)) == (40, 40)


def test_what_is_only_overwritten_is_not_read():
    a, b = torch.ones(4), torch.ones(4)
    assert moves(lambda: a.copy_(b)) == (16, 16)
    assert moves(lambda: a.zero_()) == (0, 16)
    assert moves(lambda: torch.add(b, b, out=a)) == (16, 16)
    assert moves(lambda: torch.add(a, b, out=a)) == (32, 16)


def test_an_expanded_axis_is_read_once():
    row = torch.ones(1, 3)
    assert moves(lambda: row.expand(4, 3) + 1) == (12, 48)


@pytest.mark.parametrize("dtype, size", [(torch.float64, 8), (torch.bfloat16, 2)])
def test_bytes_follow_the_dtype(dtype, size):
    x = torch.ones(10, dtype=dtype)
    assert moves(lambda: x.exp()) == (10 * size, 10 * size)


def test_a_mask_is_read_at_one_byte_per_entry():
    mask = torch.ones(2, 3, 8, dtype=torch.bool)
    assert moves(lambda: X.masked_fill(mask, 0.0)) == (192 + 48, 192)


def test_traffic_is_listed_by_operator():
    counted = counting.traffic(lambda: (X.exp() + X).exp())
    assert counted.by_operator == {"exp": 4 * 192, "add": 3 * 192}


def test_traffic_needs_no_memory_on_the_meta_device():
    x, y = (torch.ones(10**6, 10**6, device="meta") for _ in range(2))
    assert moves(lambda: x + y) == (8 * 10**12, 4 * 10**12)

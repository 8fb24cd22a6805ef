"""What a program really asks for, counted while it runs.

Real calls: their FLOPs and the bytes that their operations move. And a simulator of
two memories, in which every element that moves is counted. `cost` predicts the same.
"""

from sparse_attn.counting.calls import Traffic, flops, flops_by_operator, traffic
from sparse_attn.counting.slow_memory import Array, SlowMemory

__all__ = ["Array", "SlowMemory", "Traffic", "flops", "flops_by_operator", "traffic"]

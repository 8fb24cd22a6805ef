"""Figures of the audit: how they are drawn, for `test_figures`."""

COUNTS = {
    "A: a method": {"correct": 2, "misleading": 5, "wrong": 13},
    "B: a chart": {"correct": 7, "depends on device": 3, "cannot be checked": 1},
}
PAIRS = [
    ("X1", 100.0, 100.0),
    ("X2", 102.0, 100.0),
    ("X3", 625_000.0, 6250.0),
    ("X4", 1.0, 2.0),
    ("X4", 3.0, 2.9),
]

DRAWN = {  # figure -> (arguments, what its caption must state)
    "factors_off": (dict(pairs=PAIRS, named=2), ["3 of 5", "X3", "100x"]),
    "verdicts": (dict(counts=COUNTS), ["9 of 31", "29%"]),
}
EXTREMES = [
    ("factors_off", dict(pairs=[("X1", 2.0, 2.0)])),
    ("factors_off", dict(pairs=[(f"X{i}", 10.0**i, 1.0) for i in range(-6, 7)])),
    ("verdicts", dict(counts={"A: nothing is checked": {}})),
    ("verdicts", dict(counts={f"source {i}": {"wrong": i} for i in range(9)})),
]

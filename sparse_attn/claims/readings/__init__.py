"""Arithmetic that only the audit needs: readings that give what was printed.

One module for each subject; what is right is in `cost` and its neighbors.
"""

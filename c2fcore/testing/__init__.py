"""What every kernel of the ops has to get right: sample inputs, tolerances, comparison.

The tests of c2fcore, the benchmarks' gate and `c2f bench --impl` read the same lists.
"""

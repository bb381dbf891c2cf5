"""Measuring c2fcore: what `c2f bench` and the suites under benchmarks/ share.

- inputs, providers, peers: what is timed, and who does it;
- parity: the gate, which no provider passes with another answer;
- measure, gpu, memory, floors: times, launches, bytes;
- op_suite, network_suite, scale_suite: rows of results;
- rows, provenance: where a row comes from and where it is kept;
- compare, charts, tables: what is made of rows, and of nothing else;
- foreign: a kernel from elsewhere, checked and timed.
"""

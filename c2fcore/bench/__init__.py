"""Measuring c2fcore: what `c2f bench` and the suites under benchmarks/ share.

- inputs, tiny, scripted, ways, peers, frames: what is timed, and who does it;
- parity, contest: the gate, which no way passes with another answer, and the timing behind it;
- measure, gpu, memory, floors, coverage: times, launches, bytes, what windows cover;
- op_suite, network_suite, engine_suite, scale_suite, training_suite: rows of results;
- rows, provenance: where a row comes from and where it is kept;
- compare, charts, tables, report: what is made of rows, and of nothing else;
- foreign: a kernel from elsewhere, checked and timed; lists: options with commas.
"""

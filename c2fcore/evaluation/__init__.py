"""Scores of networks on data sets: counting, reporting, tables (`c2f eval`, `c2f reproduce`)."""

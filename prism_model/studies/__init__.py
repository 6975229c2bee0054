"""Studies: the claims about long inputs, background signals and the adjustment, tested on a user's own store.

A study is a documented design: a grid of runs over seeds, what is measured on each, and a report with intervals.
See ``prism study --help`` and ``docs/studies``.
"""

"""The lab behind perf/run: which jobs are measured with which tools, how, and what becomes of the figures.

    scenarios   what is measured: trees, starts, rows
    machine     the machine, and one timed run on it
    bench       all repetitions of one scenario on one medium
    report      tables from the raw figures
    plot        pictures of them, where matplotlib is installed

Python 3.9, standard library only, but for the pictures.
"""

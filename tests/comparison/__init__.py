"""Who else has what: the rows of docs/comparison.md, and how each of them is checked.

    python -m tests.comparison    # write docs/comparison.md anew

A section is a table; a column is a library. To add a row, say in `Row` what there is and give a
cell for each library that has it; a library without a cell has nothing whose name holds the row's
words. To add a library, write it into `libraries.py`, give a section another column and, for what
can be run under vmap, a probe or `members`. `tests/test_comparison.py` checks every cell against
the installed version of the library, and skips those that are not installed
(`pip install -e ".[bench]"`).
"""

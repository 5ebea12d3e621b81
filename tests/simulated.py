"""Which cases are tried where kernels for GPUs are emulated or interpreted, on a CPU, and take long."""

import pytest
import torch


def in_turn(rows, columns):
    """Parameters of all pairs of a row and a column; without a GPU only ``--slow`` tries more than one column a row.

    The column goes on from row to row, so that each takes its turn. Rows and columns are tuples.
    """
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            mine = torch.cuda.is_available() or j == i % len(columns)
            yield pytest.param(*row, *column, marks=[] if mine else [pytest.mark.slow])

"""The diagram of a network says what its table says."""

import numpy as np

from purenets.core.report import diagrams
from purenets.core.report.tabulate import tabulate
from purenets.numpy_nets import CNN


def test_every_layer_and_every_product_is_drawn():
    rows = tabulate(CNN(3, 10, width=1 / 16), np.zeros((2, 3, 32, 32), np.float32))
    (axis,) = diagrams.network(rows).axes
    texts = " ".join(text.get_text() for text in axis.texts)
    for row in rows:
        assert row.name in texts.split()
        if "(" in row.forward:
            assert row.forward in texts
            assert row.backward in texts
    assert "2 x 3 x 32 x 32" in texts
    assert "2 x 10" in texts

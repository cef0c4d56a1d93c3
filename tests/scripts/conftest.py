"""What the tests of scripts share."""

import pytest


@pytest.fixture
def undrawn(monkeypatch):
    """Pages have empty pictures: drawing those of a report takes longer than all else in it."""
    monkeypatch.setattr("purenets.core.report.html.png", lambda *figure, **options: b"")

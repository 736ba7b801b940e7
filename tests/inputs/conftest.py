"""What every input's visit to the doctor leaves out: two processes that meet, which no input changes."""

import pytest


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr("cskd_bench.doctor.machine.ranks", lambda: iter(()))

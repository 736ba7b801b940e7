"""What tests of several executors share."""

import pytest
from helpers.fake_slurm import FakeSlurm


@pytest.fixture
def cluster(tmp_path):
    """A fake Slurm in which twenty seconds pass in one."""
    made = FakeSlurm(tmp_path / "fake", seconds=0.05, gres="gpu:a100:4")
    yield made
    made.end()

"""Lets the tests of this folder import their helper modules, and sets no deadlines: machines are busy."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent))
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

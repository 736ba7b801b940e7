import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # bank_runs.py, shared by these tests and their processes

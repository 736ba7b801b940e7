"""Annotations as labelling tools write them: ids from 0, boxes drawn backwards, masks of odd forms."""

TITLE = "Annotations"
ABOUT = "Checked before the first epoch (`cskd_bench/detection/annotations.py`)."
INPUTS = ()

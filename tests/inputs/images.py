"""Images as people have them: other formats, 16 bits, odd metadata, damaged."""

TITLE = "Images"
ABOUT = "Every image is decoded in one place (`cskd_bench/data/decode.py`)."
INPUTS = ()

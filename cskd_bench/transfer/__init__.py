"""Downstream protocols: one file each, and the dict that names them."""

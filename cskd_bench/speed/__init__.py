"""Side-by-side measurements of our parts against a yardstick."""

"""The doctor: is this machine ready, is this data set complete, and what to do where not."""

"""The parts of the suite for programs of one's own; `import cskd_bench` finds them by name."""

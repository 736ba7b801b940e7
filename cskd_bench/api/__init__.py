"""The parts of the suite for your own programs; `import cskd_bench` finds them by name."""

"""Plans and the runner of a whole comparison."""

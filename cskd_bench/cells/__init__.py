"""One cell: a pretraining or a downstream run, from its settings to its record; all there is of `Record(...)`."""

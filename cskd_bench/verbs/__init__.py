"""The command line's verbs, one file each: `add` describes a verb, `_run` hands over to the room that does the work."""

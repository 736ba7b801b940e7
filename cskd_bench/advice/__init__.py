"""Whether CSKD is worth a try in a configuration: what was measured of it, and what like settings showed."""

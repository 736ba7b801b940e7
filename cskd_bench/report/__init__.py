"""From records to tables, figures and one offline page; needs no torch."""

"""Names and places as people have them: file names that are not UTF-8, folders with quotation marks."""

TITLE = "Names and places"
ABOUT = "Checked where a command begins."
INPUTS = ()

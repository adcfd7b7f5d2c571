"""To and from the files of other programs."""

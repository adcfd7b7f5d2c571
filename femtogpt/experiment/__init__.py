"""The experiments of the log that started this project, run again: entries.json says what each
is, sources.py makes its text, attempt.py trains it, measures.py judges it, pages.py shows it."""

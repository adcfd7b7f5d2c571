"""Models served to a browser on this machine: what it may ask (asked.py), what it is told
(models.py, answers.py), and who may ask at all (server.py)."""

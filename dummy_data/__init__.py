"""Small synthetic datasets, and the rules a model trained on them is scored by.

Each file but script.py is a script: `python3 dummy_data/simple_dummy.py > dataset.txt`.
"""

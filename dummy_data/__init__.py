"""Small synthetic datasets, and the rules a model trained on them is scored by.

Each file is a script: `python3 dummy_data/simple_dummy.py > dataset.txt`. None imports
another, so each can be read, copied and run on its own.
"""

"""python -m femtogpt"""

from .cli import main

main(prog_name="femtogpt")

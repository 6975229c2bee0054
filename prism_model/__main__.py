"""``python -m prism_model`` is the command ``prism``: what ``torchrun`` can start."""

from prism_model.cli import main

main(prog_name="prism")

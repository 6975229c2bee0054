"""Run the program as ``python -m genostore``."""

from genostore.cli import main

main()

"""What labs do to a store, tried many times; ``python -m tests.reliability`` runs it all and writes what was seen."""

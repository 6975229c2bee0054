"""What labs do to a store, tried many times: ``python -m tests.reliability`` runs all of it and writes what was seen."""

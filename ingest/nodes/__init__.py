"""The nodes of a store, one module a kind: how each is made from its sources."""

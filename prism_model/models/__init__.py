"""The architectures that can be compared: one registry (``registry``), one module each; all give a ``PrismOutput``."""

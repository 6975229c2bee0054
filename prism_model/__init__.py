"""Prism: a confounder encoder and a backdoor-adjusted predictor of gene expression."""

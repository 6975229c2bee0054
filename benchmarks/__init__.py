"""Side by side against peers, in one run, on the same windows and the same values."""

"""Turn the files of biology into a genostore store."""

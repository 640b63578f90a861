"""Input and output: files, names and options, checked before use."""

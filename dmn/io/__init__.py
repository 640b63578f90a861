"""What comes from outside and goes there: files, names and options, checked before use."""

"""The `dmn` command, a module for each of its subcommands."""

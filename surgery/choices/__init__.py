"""What can be asked for, as data: quick to import, since every ``--help`` reads it."""

"""The command: parses, opens, calls one function, renders what it returned."""

"""The verbs of the command line, one module each; only the standard library at import time."""

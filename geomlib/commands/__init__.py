"""The verbs of the command line, one module each; they import only the standard library until they run."""

"""In what order: stages, workflows, typed configuration and the command line."""

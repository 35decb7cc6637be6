"""What each stage does. Imported only when a stage runs."""

"""What a run is: its sections typed, read from YAML, and held to the rules between them."""

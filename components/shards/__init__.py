"""What a replica is asked for: shards of samples and of scores, and the prompts that they start from."""

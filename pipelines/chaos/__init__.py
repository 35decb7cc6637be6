"""The fault suite as a tool: disturb any run on any cluster, and see what comes of it."""

"""The live stream: readings as server-sent events, while they are stored."""

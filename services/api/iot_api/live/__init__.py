"""The live stream: readings as server-sent events, soon after they are stored."""

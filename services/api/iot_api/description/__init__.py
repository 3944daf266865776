"""The description of the API: `openapi.json`, written by hand, and the documents made from it."""

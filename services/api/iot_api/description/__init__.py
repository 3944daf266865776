"""The description of the API: `openapi.json`, written by hand, and what is made of it."""

"""The status of the whole service, and orders that replay or drop dead letters. Without HTTP."""

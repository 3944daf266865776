"""Compaction: merge the small segments of a vault with the keys of an order from the API.

The API plans (`iot_api.vaults.compaction_planner`); only a writer changes the history.
"""

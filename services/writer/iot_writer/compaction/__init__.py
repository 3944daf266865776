"""Compaction: merge the small segments that an order of an API process names.

`iot_api.vaults.compaction_planner` plans the orders.
"""

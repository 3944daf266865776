"""The status of the whole service, and orders that replay or drop dead letters.

The views in `iot_api.routes` make these available over HTTP.
"""

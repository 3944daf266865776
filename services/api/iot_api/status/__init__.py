"""The operator's view of the service, without HTTP."""

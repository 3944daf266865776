"""The routes: from HTTP to the service's parts and back."""

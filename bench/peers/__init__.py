"""What people would use instead, each started on loopback with its data in a temporary folder."""

"""What talks to a Kubernetes cluster; loaded by its commands alone, for `kubernetes` is slow."""

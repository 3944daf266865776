"""How long each thing may take on a slow cluster, in seconds. All are limits: nobody sleeps."""

REACHABLE = 3
"""For the API server to answer at all; else there is no cluster."""
REQUEST = 30
"""For the API server to answer a request."""
POLL = 1.0
"""From one look to the next."""
INSTALL = 1200
"""For helm to have everything ready: images are pulled, volumes made, the schema migrated."""
HELM_TEST = 600
UNINSTALL = 600
ROLLOUT = 600
"""For pods to be replaced and ready, with preStop, a drain and readiness of each in turn."""
POD_START = 300
"""For a pod of the tests to run; its image may have to be pulled."""
POD_END = 300
"""For a pod of the tests to do its work."""
GO_ON = 180
"""For every device of the load to get more readings acknowledged, a killed node's timeouts
included."""
LOAD = 3600
"""For the load itself; it is ended earlier."""
VERIFY = 300
"""For the load to have everything stored and read back."""
LOAD_END = 900
"""From the wish that the load ends to its report: the annotation's way, what was on its way,
`VERIFY`."""
EVICTION = 600
"""For a budget to let a pod go."""
POLICY = 90
"""For a new NetworkPolicy to hold, where one ever does."""
GONE = 600
"""For a namespace to be gone."""
TEST = 7200
"""For one test with its fixtures."""

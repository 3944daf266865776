"""Sets of values for Prometheus and Grafana: monitors, rules and dashboards."""

from collections.abc import Mapping
from typing import Any

MONITORING: Mapping[str, Mapping[str, Any]] = {
    "pod-monitor": {
        "canary": {"enabled": True},
        "metrics": {
            "podMonitor": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "annotations": {"example.org/team": "sensors"},
                "scrapeTimeout": "10s",
                "relabelings": [{"action": "labeldrop", "regex": "pod_template_hash"}],
                "metricRelabelings": [
                    {"sourceLabels": ["__name__"], "regex": "python_.*", "action": "drop"}
                ],
            },
            "rules": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "alertLabels": {"team": "sensors"},
                "alerts": {"IotSlow": {"enabled": False}, "IotErrors": {"threshold": 0.001}},
            },
            "dashboards": {"enabled": True, "annotations": {"folder": "sensors"}},
        },
    },
    "service-monitor": {
        "canary": {"enabled": True},
        "metrics": {
            "serviceMonitor": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "interval": "",
            },
            "rules": {"enabled": True},
            "dashboards": {"enabled": True, "label": "mine", "labelValue": "yes"},
        },
    },
    "rules-alone": {"metrics": {"rules": {"enabled": True}}},
    "annotated-metrics": {
        "metrics": {"annotations": {"enabled": True}},
        "canary": {"enabled": True},
    },
}

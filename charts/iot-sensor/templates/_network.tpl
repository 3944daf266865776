{{/* Rules of egress, each an item of a list. */}}
{{- define "iot-sensor.egressDns" -}}
- ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Argument: ports, to (empty: anywhere). */}}
{{- define "iot-sensor.egressTo" -}}
- ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Argument: context, component, port. */}}
{{- define "iot-sensor.egressOwn" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  to:
    - podSelector:
        matchLabels:
          {{- include "iot-sensor.selectorLabels" . | nindent 10 }}
{{- end -}}

{{- define "iot-sensor.egressRedis" -}}
{{- $hotWindow := or .Values.redis.hotWindow.existingSecret .Values.redis.hotWindow.url -}}
{{- if .Values.redis.internal.enabled }}
{{ include "iot-sensor.egressOwn" (dict "context" . "component" "redis" "port" 6379) }}
{{- end }}
{{- if or $hotWindow (not .Values.redis.internal.enabled) }}
{{ include "iot-sensor.egressTo" .Values.networkPolicy.redis }}
{{- end }}
{{- end -}}

{{- define "iot-sensor.egressPostgres" -}}
{{- if .Values.postgres.internal.enabled -}}
{{ include "iot-sensor.egressOwn" (dict "context" . "component" "postgres" "port" 5432) }}
{{- else -}}
{{ include "iot-sensor.egressTo" .Values.networkPolicy.postgres }}
{{- end -}}
{{- end -}}

{{/* Rules of ingress from pods of this release. Argument: context, components, port. */}}
{{- define "iot-sensor.ingressFromOwn" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  from:
    {{- range .components }}
    - podSelector:
        matchLabels:
          {{- include "iot-sensor.selectorLabels" (dict "context" $.context "component" .) | nindent 10 }}
    {{- end }}
{{- end -}}

{{/* Metrics are for monitoring, and for what scales by them. Argument: context, port. */}}
{{- define "iot-sensor.ingressMetrics" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  {{- with .context.Values.networkPolicy.metricsFrom }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* The IP families of Services whose pods listen on `bindAddress`. */}}
{{- define "iot-sensor.ipFamilies" -}}
{{- with .Values.api.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.api.service.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Rules of egress, each an item of a list. The first ones apply to every pod except those of the internal Redis and Postgres. */}}
{{- define "iot-sensor.egressCommon" -}}
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
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
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

{{/* The collector of traces. The exporter uses port 80 or 443 where the endpoint names no port. */}}
{{- define "iot-sensor.egressTracing" -}}
{{- $policy := .Values.networkPolicy.tracing -}}
{{- $endpoint := .Values.tracing.endpoint -}}
{{- $ports := include "iot-sensor.urlPorts" (dict "url" $endpoint "port" (hasPrefix "https" $endpoint | ternary 443 80)) | fromJsonArray -}}
{{- $whole := list -}}
{{- range concat $policy.ports $ports }}{{ $whole = append $whole (int .) }}{{ end -}}
{{- include "iot-sensor.egressTo" (dict "ports" (uniq $whole) "to" $policy.to) -}}
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

{{/* Ports that a URL names, as a JSON list. Argument: url, port (the default). */}}
{{- define "iot-sensor.urlPorts" -}}
{{- $ports := list -}}
{{- $hosts := regexReplaceAll "[/?#].*$" (regexReplaceAll "^[^:]*://" .url "") "" | splitList "@" | last -}}
{{- $given := regexFind "[?&]port=[0-9,]+" .url | splitList "=" | last -}}
{{- if $given -}}
{{- range splitList "," $given }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- else -}}
{{- range splitList "," $hosts -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default $.port | int) -}}
{{- end -}}
{{- end -}}
{{- toJson (uniq $ports) -}}
{{- end -}}

{{/* Ports at which a component connects to an external store, as a JSON list: those of the values,
and those of a URL in the values. A URL in a Secret can't be read here: the secrets Job compares it.
Argument: context, component, store (redis, hotWindow, postgres). */}}
{{- define "iot-sensor.storePorts" -}}
{{- $values := .context.Values -}}
{{- $policy := eq .store "postgres" | ternary $values.networkPolicy.postgres $values.networkPolicy.redis -}}
{{- $url := get (dict "redis" $values.redis.url "hotWindow" $values.redis.hotWindow.url "postgres" $values.postgres.url) .store -}}
{{- $ports := $policy.ports -}}
{{- if and $url (not (include "iot-sensor.storeRef" .)) -}}
{{- $default := contains "+sentinel://" $url | ternary 26379 (eq .store "postgres" | ternary 5432 6379) -}}
{{- $ports = concat $ports (include "iot-sensor.urlPorts" (dict "url" $url "port" $default) | fromJsonArray) -}}
{{- end -}}
{{- $whole := list -}}
{{- range $ports }}{{ $whole = append $whole (int .) }}{{ end -}}
{{- toJson (uniq $whole) -}}
{{- end -}}

{{/* Ports that are open for the URL in a Secret, separated by commas; empty: all ports are open, or the chart can't tell which. Argument: as above. */}}
{{- define "iot-sensor.openPorts" -}}
{{- $policy := .context.Values.networkPolicy -}}
{{- $known := $policy.enabled -}}
{{- $ports := include "iot-sensor.storePorts" . | fromJsonArray -}}
{{- range $policy.extraEgress -}}
{{- if not .ports }}{{ $known = false }}{{ end -}}
{{- range .ports -}}
{{- if ne (.protocol | default "TCP") "TCP" -}}
{{- else if or .endPort (not .port) (kindIs "string" .port) }}{{ $known = false }}{{ else }}{{ $ports = append $ports .port }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $known -}}
{{- $whole := list -}}
{{- range $ports }}{{ $whole = append $whole (int . | toString) }}{{ end -}}
{{- uniq $whole | join "," -}}
{{- end -}}
{{- end -}}

{{/* Argument: context, component. */}}
{{- define "iot-sensor.egressRedis" -}}
{{- $values := .context.Values -}}
{{- $ports := list -}}
{{- if $values.redis.internal.enabled }}
{{ include "iot-sensor.egressOwn" (dict "context" .context "component" "redis" "port" 6379) }}
{{- end }}
{{- $redis := merge (dict "store" "redis") . -}}
{{- if or (not $values.redis.internal.enabled) (get (get $values.redis .component) "existingSecret") -}}
{{- $ports = concat $ports (include "iot-sensor.storePorts" $redis | fromJsonArray) -}}
{{- end -}}
{{- $hotWindow := merge (dict "store" "hotWindow") . -}}
{{- if or $values.redis.hotWindow.url (include "iot-sensor.storeRef" $hotWindow) -}}
{{- $ports = concat $ports (include "iot-sensor.storePorts" $hotWindow | fromJsonArray) -}}
{{- end -}}
{{- if $ports }}
{{ include "iot-sensor.egressTo" (dict "ports" (uniq $ports) "to" $values.networkPolicy.redis.to) }}
{{- end }}
{{- end -}}

{{/* Argument: context, component. */}}
{{- define "iot-sensor.egressPostgres" -}}
{{- $values := .context.Values -}}
{{- if $values.postgres.internal.enabled }}
{{ include "iot-sensor.egressOwn" (dict "context" .context "component" "postgres" "port" 5432) }}
{{- end }}
{{- if or (not $values.postgres.internal.enabled) (get (get $values.postgres .component) "existingSecret") }}
{{ include "iot-sensor.egressTo" (dict "ports" (include "iot-sensor.storePorts" (merge (dict "store" "postgres") .) | fromJsonArray) "to" $values.networkPolicy.postgres.to) }}
{{- end }}
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

{{/* Metrics: for monitoring, and for scalers that use them. Argument: context, port. */}}
{{- define "iot-sensor.ingressMetrics" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  {{- with .context.Values.networkPolicy.metricsFrom }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

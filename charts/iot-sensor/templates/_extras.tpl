{{/* Refuse extra values that repeat values of the chart: Kubernetes would use one of the two, or refuse the pod. */}}
{{- define "iot-sensor.validateExtras" -}}
{{- $values := .Values -}}
{{- $config := include "iot-sensor.config" . | fromYaml -}}
{{- $own := dict "api" (dict) "writer" (dict) "jobs" (dict "IOT_LOG_FORMAT" true) -}}
{{- $ofJobs := $values.keys.rotation.enabled | ternary (list "rotation" (list "redis" "postgres")) (list "migration" (list "postgres")) -}}
{{- range $component, $pair := dict "api" (list "api" (list "keyring" "tokens" "tls" "redis" "postgres")) "writer" (list "writer" (list "writer-keys" "redis" "postgres")) "jobs" $ofJobs -}}
{{- $names := get $own $component -}}
{{- range include "iot-sensor.secretEnv" (dict "context" $ "component" (first $pair) "files" (last $pair)) | fromYamlArray -}}
{{- $_ := set $names .name true -}}
{{- if contains "_URL" .name -}}
{{- $_ := set $names (trimSuffix "_FILE" .name) true -}}
{{- $_ := set $names (trimSuffix "_FILE" .name | printf "%s_FILE") true -}}
{{- end -}}
{{- end -}}
{{- if or (ne $component "jobs") $values.keys.rotation.enabled -}}
{{- range $name, $_ := $config }}{{ $_ := set $names $name true }}{{ end -}}
{{- end -}}
{{- end -}}

{{- range $component, $names := $own -}}
{{- $seen := dict -}}
{{- range (get $values $component).extraEnv -}}
{{- if hasKey $names .name -}}
{{- fail (printf "\n\n%s.extraEnv sets %s, which the chart sets too: remove it there, and set %s." $component .name (include "iot-sensor.valueOf" (dict "name" .name "component" $component))) -}}
{{- end -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "\n\n%s.extraEnv sets %s twice: remove one of them." $component .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- end -}}

{{- $collector := trimSuffix "/" $values.tracing.endpoint | printf "%s/" -}}
{{- range $name, $set := $values.tracing.variables -}}
{{- $value := include "iot-sensor.valueOf" (dict "name" $name "component" "api") -}}
{{- $otherPath := and (eq $name "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") (hasPrefix $collector (toString $set)) -}}
{{- if and (ne $value (printf "tracing.variables.%s" $name)) (not $otherPath) -}}
{{- fail (printf "\n\ntracing.variables sets %s, which would replace %s: remove it there, and set %s." $name $value $value) -}}
{{- end -}}
{{- end -}}

{{- range $component := list "api" "writer" "canary" -}}
{{- $extra := get $values $component -}}
{{- $volumes := list "secrets" "tmp" -}}
{{- range $extra.extraVolumes -}}
{{- $volumes = append $volumes .name -}}
{{- if has .name (list "secrets" "tmp" "migration-secrets") -}}
{{- fail (printf "\n\n%s.extraVolumes has a volume %s, and so has the chart: give your volume another name." $component .name) -}}
{{- end -}}
{{- end -}}
{{- range $extra.extraVolumeMounts -}}
{{- if or (eq (trimSuffix "/" .mountPath) "/tmp") (hasPrefix "/etc/iot-sensor/" (printf "%s/" .mountPath)) -}}
{{- fail (printf "\n\n%s.extraVolumeMounts mounts %s, where the chart mounts a volume: choose another path." $component .mountPath) -}}
{{- end -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "\n\n%s.extraVolumeMounts mounts a volume %s, which does not exist: add the volume to %s.extraVolumes." $component .name $component) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $extra.podAnnotations -}}
{{- if or (eq $name "checksum/config") (and $values.metrics.annotations.enabled (has $name (list "prometheus.io/scrape" "prometheus.io/port" "prometheus.io/path"))) -}}
{{- fail (printf "\n\n%s.podAnnotations has %s, which the chart sets too: remove it there." $component $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The paths of the page with their types, as YAML. Arguments: page (api.page), paths (forwarded already). */}}
{{- define "iot-sensor.pagePaths" -}}
{{- if and .page (not (has "/" .paths)) }}
/: Exact
/assets: Prefix
/docs: Prefix
/openapi.json: Exact
{{- end }}
{{- end -}}

{{/* The value of the chart that sets a variable. Argument: name, component (api, writer, jobs). */}}
{{- define "iot-sensor.valueOf" -}}
{{- $own := dict
  "IOT_SHARDS" "shards"
  "IOT_RETENTION_DAYS" "retention.days"
  "IOT_BIND" "bindAddress"
  "IOT_METRICS_ADDRESS" "bindAddress"
  "IOT_API_METRICS_PORT" "nothing instead: the port is fixed"
  "IOT_WRITER_METRICS_PORT" "nothing instead: the port is fixed"
  "IOT_API_WORKERS" "api.workers"
  "IOT_API_CONNECTIONS" "api.connections"
  "IOT_API_POSTGRES_POOL" "api.postgresPool"
  "IOT_KEEPALIVE_SECONDS" "api.keepaliveSeconds"
  "IOT_CORS_ORIGINS" "api.corsOrigins"
  "IOT_PAGE" "api.page"
  "IOT_LOG_FORMAT" "logs.format"
  "IOT_RATE_LIMIT_ADDRESS" "api.rateLimits.perAddress"
  "IOT_RATE_LIMIT_TOKEN" "api.rateLimits.perToken"
  "IOT_TRUSTED_PROXIES" "api.trustedProxies"
  "IOT_ANONYMOUS_SCOPES" "auth.anonymousScopes"
  "IOT_TOKENS_FILE" "auth.existingSecret"
  "IOT_TLS_CERTIFICATE" "api.tls.existingSecret"
  "IOT_TLS_KEY" "api.tls.existingSecret"
  "IOT_TLS_CLIENT_CA_FILE" "api.tls.clients.ca.existingSecret"
  "IOT_TLS_CLIENT_CRL_FILE" "api.tls.clients.crl.existingSecret"
  "IOT_TLS_CLIENT_REQUIRED" "api.tls.clients.required"
  "IOT_KEYRING_FILE" (eq .component "writer" | ternary "keys.writer.existingSecret" "keys.existingSecret")
  "IOT_REDIS_URL" "redis.url or redis.existingSecret"
  "IOT_HOT_WINDOW_REDIS_URL" "redis.hotWindow.url or redis.hotWindow.existingSecret"
  "IOT_POSTGRES_URL" "postgres.url or postgres.existingSecret"
  "OTEL_EXPORTER_OTLP_ENDPOINT" "tracing.endpoint"
  "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" "tracing.endpoint"
  "OTEL_TRACES_SAMPLER" "tracing.sampler"
  "OTEL_TRACES_SAMPLER_ARG" "tracing.ratio"
-}}
{{- $name := contains "_URL_FILE" .name | ternary (trimSuffix "_FILE" .name) .name -}}
{{- $parent := hasPrefix "OTEL_" .name | ternary "tracing.variables" "config" -}}
{{- get $own $name | default (printf "%s.%s" $parent .name) -}}
{{- end -}}

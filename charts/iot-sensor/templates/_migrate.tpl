{{/* The container that migrates the schema. Argument: context, volume (its Secrets). */}}
{{- define "iot-sensor.migrateContainer" -}}
{{- $values := .context.Values -}}
{{- $files := dict "context" .context "component" "migration" "files" (list "postgres") -}}
- name: migrate
  image: {{ include "iot-sensor.image" (dict "context" .context "image" $values.writer.image) | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  command: ["iot-sensor"]
  args: ["migrate", "--wait", {{ include "iot-sensor.text" $values.migrations.waitSeconds }}{{ if $values.migrations.grant }}, "--grant"{{ end }}]
  env:
    - name: IOT_LOG_FORMAT
      value: {{ $values.logs.format | quote }}
    {{- with include "iot-sensor.secretEnv" $files | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $values.jobs.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources:
    {{- toYaml $values.jobs.resources | nindent 4 }}
  securityContext:
    {{- include "iot-sensor.securityContext" $values.jobs.securityContext | nindent 4 }}
  volumeMounts:
    - name: {{ .volume }}
      mountPath: /etc/iot-sensor
      readOnly: true
    - name: tmp
      mountPath: /tmp
{{- end -}}

{{/* Whether the writers' pods migrate: a hook can't, since it runs before the release's own Postgres exists.
No Job either: Helm leaves one behind when an upgrade fails, and Kubernetes refuses to change it. */}}
{{- define "iot-sensor.writersMigrate" -}}
{{- if and .Values.migrations.enabled .Values.postgres.internal.enabled }}true{{ end -}}
{{- end -}}

{{/* Names have at most 40 characters, so that every suffix fits into the limits of Kubernetes. */}}
{{- define "iot-sensor.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "iot-sensor.fullname" -}}
{{- $full := printf "%s-%s" .Release.Name (include "iot-sensor.name" .) -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if contains (include "iot-sensor.name" .) .Release.Name -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- if gt (len $full) 40 -}}
{{- $full = printf "%s-%s" ($full | trunc 33 | trimSuffix "-") (sha256sum $full | trunc 6) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* Helm reads a number as a float and would write 1e+06. */}}
{{- define "iot-sensor.text" -}}
{{- if kindIs "float64" . }}{{ int64 . | quote }}{{ else }}{{ . | quote }}{{ end -}}
{{- end -}}

{{/* Selector labels: a new version must not change them. Argument: context, component. */}}
{{- define "iot-sensor.selectorLabels" -}}
app.kubernetes.io/name: {{ include "iot-sensor.name" .context | quote }}
app.kubernetes.io/instance: {{ .context.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Argument: context, component, extra. */}}
{{- define "iot-sensor.labels" -}}
{{- $own := include "iot-sensor.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $own "app.kubernetes.io/version" .context.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "iot-sensor" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .context.Release.Service -}}
{{- toYaml (mergeOverwrite $own (.context.Values.commonLabels | default dict) (.extra | default dict)) -}}
{{- end -}}

{{/* Labels of a pod. They do not contain the chart's version, which would restart pods. Argument: context, component, extra. */}}
{{- define "iot-sensor.podLabels" -}}
{{ include "iot-sensor.selectorLabels" . }}
app.kubernetes.io/part-of: iot-sensor
{{- with mergeOverwrite (dict) (.context.Values.commonLabels | default dict) (.extra | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image's reference. Argument: context, image (repository, tag, digest; registry if not the common one). */}}
{{- define "iot-sensor.image" -}}
{{- $registry := .image.registry | default .context.Values.image.registry -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .context.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "iot-sensor.serviceAccountName" -}}
{{- $account := .values.serviceAccount -}}
{{- if $account.create -}}
{{- $account.name | default (printf "%s-%s" (include "iot-sensor.fullname" .context) .component) -}}
{{- else -}}
{{- $account.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Security contexts of the restricted Pod Security level, unless values override them.
     OpenShift chooses users and groups itself. Arguments: context, values (merged over). */}}
{{- define "iot-sensor.podSecurityContext" -}}
{{- $restricted := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- $all := mergeOverwrite $restricted (deepCopy (.values | default dict)) -}}
{{- if .context.Values.openshift -}}
{{- $all = omit $all "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{- define "iot-sensor.securityContext" -}}
{{- $restricted := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- toYaml (mergeOverwrite $restricted (deepCopy (. | default dict))) -}}
{{- end -}}

{{/* Where pods may run. Argument: context, component, values (the component's). */}}
{{- define "iot-sensor.scheduling" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- tpl (toYaml .) $.context | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml (omit . "labelSelector") | nindent 4 | trim }}
    labelSelector:
      {{- if .labelSelector }}
      {{- toYaml .labelSelector | nindent 6 }}
      {{- else }}
      matchLabels:
        {{- include "iot-sensor.selectorLabels" $ | nindent 8 }}
      {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "iot-sensor.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Names of the Secrets: set in the values, or else created by the secrets Job. */}}
{{- define "iot-sensor.keysSecret" -}}
{{- .Values.keys.existingSecret | default (printf "%s-keys" (include "iot-sensor.fullname" .)) -}}
{{- end -}}

{{- define "iot-sensor.writerKeysSecret" -}}
{{- .Values.keys.writer.existingSecret | default (printf "%s-writer-keys" (include "iot-sensor.fullname" .)) -}}
{{- end -}}

{{- define "iot-sensor.tokensSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-tokens" (include "iot-sensor.fullname" .)) -}}
{{- end -}}

{{- define "iot-sensor.probeSecret" -}}
{{- .Values.probe.existingSecret | default (printf "%s-probe" (include "iot-sensor.fullname" .)) -}}
{{- end -}}

{{/* Names of the internal stores: of the Service, the StatefulSet and the Secret. */}}
{{- define "iot-sensor.redisName" -}}
{{ include "iot-sensor.fullname" . }}-redis
{{- end -}}

{{- define "iot-sensor.postgresName" -}}
{{ include "iot-sensor.fullname" . }}-postgres
{{- end -}}

{{/* Secret and key, as `secret:key`, of the URL with which a component connects to a store; empty: the URL is not in a Secret.
Argument: context, store (redis, hotWindow, postgres), component (api, writer, migration, rotation). */}}
{{- define "iot-sensor.storeRef" -}}
{{- $values := .context.Values -}}
{{- /* The rotation uses the role of the migration, because that role owns the tables. */ -}}
{{- $component := and (eq .store "postgres") (eq .component "rotation") | ternary "migration" .component -}}
{{- $block := get (dict "redis" $values.redis "hotWindow" $values.redis.hotWindow "postgres" $values.postgres) .store -}}
{{- $own := get $block $component | default dict -}}
{{- $secret := $own.existingSecret | default $block.existingSecret -}}
{{- $key := $own.existingSecretKey | default $block.existingSecretKey -}}
{{- if $secret -}}
{{- printf "%s:%s" $secret $key -}}
{{- else if and (ne .store "hotWindow") $block.internal.enabled -}}
{{- /* The Job that creates this Secret chooses its keys. */ -}}
{{- printf "%s:url" (include (printf "iot-sensor.%sName" .store) .context) -}}
{{- end -}}
{{- end -}}

{{/* Files under /etc/iot-sensor. Argument: context, component (api, writer, migration, rotation), files (list of keyring,
writer-keys, tokens, tls, redis, postgres, probe), volume (its name; default: secrets). */}}
{{- define "iot-sensor.secretFiles" -}}
{{- $values := .context.Values -}}
- name: {{ .volume | default "secrets" }}
  projected:
    defaultMode: 0440
    sources:
    {{- if has "keyring" .files }}
      - secret:
          name: {{ include "iot-sensor.keysSecret" .context | quote }}
          items:
            - key: {{ $values.keys.existingSecretKey | quote }}
              path: keyring/keyring.json
    {{- end }}
    {{- if has "writer-keys" .files }}
      - secret:
          name: {{ include "iot-sensor.writerKeysSecret" .context | quote }}
          items:
            - key: {{ $values.keys.writer.existingSecretKey | quote }}
              path: keyring/writer-keys.json
    {{- end }}
    {{- if and (has "tokens" .files) $values.auth.enabled }}
      - secret:
          name: {{ include "iot-sensor.tokensSecret" .context | quote }}
          items:
            - key: {{ $values.auth.existingSecretKey | quote }}
              path: tokens/tokens.json
    {{- end }}
    {{- if has "tls" .files }}
    {{- include "iot-sensor.tlsFiles" .context | indent 6 }}
    {{- end }}
    {{- range $store := list "redis" "postgres" }}
    {{- if has $store $.files }}
    {{- with include "iot-sensor.storeCertificateFile" (dict "context" $.context "store" $store "component" $.component) | trim }}
    {{- . | nindent 6 }}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- if has "redis" .files }}
    {{- include "iot-sensor.storeFile" (merge (dict "store" "redis" "path" "redis/url") .) | indent 4 }}
    {{- end }}
    {{- if and (has "redis" .files) $values.redis.ca.existingSecret }}
      - secret:
          name: {{ $values.redis.ca.existingSecret | quote }}
          items:
            - key: {{ $values.redis.ca.existingSecretKey | quote }}
              path: redis/ca.crt
    {{- end }}
    {{- if has "redis" .files }}
    {{- include "iot-sensor.storeFile" (merge (dict "store" "hotWindow" "path" "hot-window/url") .) | indent 4 }}
    {{- end }}
    {{- if has "postgres" .files }}
    {{- include "iot-sensor.storeFile" (merge (dict "store" "postgres" "path" "postgres/url") .) | indent 4 }}
    {{- end }}
    {{- if and (has "postgres" .files) $values.postgres.ca.existingSecret }}
      - secret:
          name: {{ $values.postgres.ca.existingSecret | quote }}
          items:
            - key: {{ $values.postgres.ca.existingSecretKey | quote }}
              path: postgres/ca.crt
    {{- end }}
    {{- if has "probe" .files }}
      - secret:
          name: {{ include "iot-sensor.probeSecret" .context | quote }}
          items:
            - key: {{ $values.probe.existingSecretPasswordKey | quote }}
              path: probe/password
            {{- if $values.auth.enabled }}
            - key: {{ $values.probe.existingSecretTokenKey | quote }}
              path: probe/token
            {{- end }}
      {{- with include "iot-sensor.probeTlsFiles" .context | trim }}
      {{- . | nindent 6 }}
      {{- end }}
    {{- end }}
{{- end -}}

{{- define "iot-sensor.storeFile" -}}
{{- with include "iot-sensor.storeRef" . }}
  - secret:
      name: {{ splitList ":" . | first | quote }}
      items:
        - key: {{ splitList ":" . | last | quote }}
          path: {{ $.path }}
{{- end }}
{{- end -}}

{{/* Variables that name those files. Argument as above. */}}
{{- define "iot-sensor.secretEnv" -}}
{{- $values := .context.Values -}}
{{- if has "keyring" .files }}
- name: IOT_KEYRING_FILE
  value: /etc/iot-sensor/keyring/keyring.json
{{- end }}
{{- if has "writer-keys" .files }}
- name: IOT_KEYRING_FILE
  value: /etc/iot-sensor/keyring/writer-keys.json
{{- end }}
{{- if and (has "tokens" .files) $values.auth.enabled }}
- name: IOT_TOKENS_FILE
  value: /etc/iot-sensor/tokens/tokens.json
{{- end }}
{{- if has "tls" .files }}
{{- include "iot-sensor.tlsEnv" .context }}
{{- end }}
{{- if has "redis" .files }}
{{- if include "iot-sensor.storeRef" (merge (dict "store" "redis") .) }}
- name: IOT_REDIS_URL_FILE
  value: /etc/iot-sensor/redis/url
{{- else }}
- name: IOT_REDIS_URL
  value: {{ $values.redis.url | quote }}
{{- end }}
{{- if include "iot-sensor.storeRef" (merge (dict "store" "hotWindow") .) }}
- name: IOT_HOT_WINDOW_REDIS_URL_FILE
  value: /etc/iot-sensor/hot-window/url
{{- else if $values.redis.hotWindow.url }}
- name: IOT_HOT_WINDOW_REDIS_URL
  value: {{ $values.redis.hotWindow.url | quote }}
{{- end }}
{{- end }}
{{- if has "postgres" .files }}
{{- if include "iot-sensor.storeRef" (merge (dict "store" "postgres") .) }}
- name: IOT_POSTGRES_URL_FILE
  value: /etc/iot-sensor/postgres/url
{{- else }}
- name: IOT_POSTGRES_URL
  value: {{ $values.postgres.url | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A hook before install and upgrade. A failed hook is kept for its log. Argument: weight. */}}
{{- define "iot-sensor.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-failed
{{- end -}}

{{/* Annotations for a Prometheus that scrapes pods by annotations. Argument: context, port. */}}
{{- define "iot-sensor.metricsAnnotations" -}}
{{- if .context.Values.metrics.annotations.enabled -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

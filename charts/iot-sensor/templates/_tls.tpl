{{/* TLS of the API, and client certificates. */}}

{{- define "iot-sensor.apiScheme" -}}
{{- ternary "https" "http" (not (empty .Values.api.tls.existingSecret)) -}}
{{- end -}}

{{- define "iot-sensor.apiPort" -}}
{{- .Values.api.service.port | default (ternary 443 80 (eq (include "iot-sensor.apiScheme" .) "https")) -}}
{{- end -}}

{{/* Address of the API inside the cluster. */}}
{{- define "iot-sensor.apiUrl" -}}
{{ include "iot-sensor.apiScheme" . }}://{{ include "iot-sensor.fullname" . }}-api.{{ .Release.Namespace }}.svc:{{ include "iot-sensor.apiPort" . }}
{{- end -}}

{{/* A probe of the API's port. Argument: context, path. */}}
{{- define "iot-sensor.apiProbe" -}}
{{- if .context.Values.api.tls.clients.required -}}
# A TLS handshake needs a client certificate, and kubelet has none.
tcpSocket:
  port: http
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
  {{- if eq (include "iot-sensor.apiScheme" .context) "https" }}
  scheme: HTTPS
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Sources of the API's certificate and of the authorities of its clients. */}}
{{- define "iot-sensor.tlsFiles" -}}
{{- $tls := .Values.api.tls -}}
{{- if $tls.existingSecret }}
- secret:
    name: {{ $tls.existingSecret | quote }}
    items:
      - key: {{ $tls.existingSecretCertificateKey | quote }}
        path: tls/tls.crt
      - key: {{ $tls.existingSecretPrivateKey | quote }}
        path: tls/tls.key
{{- end }}
{{- range $name, $path := dict "ca" "tls/clients/ca.crt" "crl" "tls/clients/ca.crl" }}
{{- $block := get $tls.clients $name }}
{{- if $block.existingSecret }}
- secret:
    name: {{ $block.existingSecret | quote }}
    items:
      - key: {{ $block.existingSecretKey | quote }}
        path: {{ $path }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "iot-sensor.tlsEnv" -}}
{{- $tls := .Values.api.tls -}}
{{- if $tls.existingSecret }}
- name: IOT_TLS_CERTIFICATE
  value: /etc/iot-sensor/tls/tls.crt
- name: IOT_TLS_KEY
  value: /etc/iot-sensor/tls/tls.key
{{- end }}
{{- if $tls.clients.ca.existingSecret }}
- name: IOT_TLS_CLIENT_CA_FILE
  value: /etc/iot-sensor/tls/clients/ca.crt
{{- end }}
{{- if $tls.clients.crl.existingSecret }}
- name: IOT_TLS_CLIENT_CRL_FILE
  value: /etc/iot-sensor/tls/clients/ca.crl
{{- end }}
{{- if $tls.clients.required }}
- name: IOT_TLS_CLIENT_REQUIRED
  value: "1"
{{- end }}
{{- end -}}

{{/* The source of a client certificate. Argument: name (of the Secret), block (keys), folder. libpq accepts a private key that
the group may read only if root owns it, as in a volume. */}}
{{- define "iot-sensor.clientCertificateFile" -}}
- secret:
    name: {{ .name | quote }}
    items:
      - key: {{ .block.existingSecretCertificateKey | quote }}
        path: {{ .folder }}/client.crt
      - key: {{ .block.existingSecretPrivateKey | quote }}
        path: {{ .folder }}/client.key
{{- end -}}

{{/* The client certificate of a component for a store. Argument: context, store (redis, postgres), component. */}}
{{- define "iot-sensor.storeCertificateFile" -}}
{{- $block := get .context.Values .store -}}
{{- $component := and (eq .store "postgres") (eq .component "rotation") | ternary "migration" .component -}}
{{- $own := get $block $component | default dict -}}
{{- with $own.clientCertificateSecret | default $block.clientCertificate.existingSecret }}
{{- include "iot-sensor.clientCertificateFile" (dict "name" . "block" $block.clientCertificate "folder" $.store) }}
{{- end }}
{{- end -}}

{{/* Sources of what `helm test` and the canary need for TLS. */}}
{{- define "iot-sensor.probeTlsFiles" -}}
{{- $tls := .Values.api.tls -}}
{{- if and $tls.existingSecret $tls.existingSecretCaKey }}
- secret:
    name: {{ $tls.existingSecret | quote }}
    items:
      - key: {{ $tls.existingSecretCaKey | quote }}
        path: probe/api-ca.crt
{{- end }}
{{- with .Values.probe.clientCertificate.existingSecret }}
{{ include "iot-sensor.clientCertificateFile" (dict "name" . "block" $.Values.probe.clientCertificate "folder" "probe") }}
{{- end }}
{{- end -}}

{{/* Arguments of `helm test` and of the canary: the API's URL, and the files of its password, token and TLS. */}}
{{- define "iot-sensor.probeArguments" -}}
{{- $tls := .Values.api.tls -}}
- --url
- {{ include "iot-sensor.apiUrl" . | quote }}
- --password-file
- /etc/iot-sensor/probe/password
{{- if .Values.auth.enabled }}
- --token-file
- /etc/iot-sensor/probe/token
{{- end }}
{{- if and $tls.existingSecret $tls.existingSecretCaKey }}
- --ca-file
- /etc/iot-sensor/probe/api-ca.crt
{{- end }}
{{- if .Values.probe.clientCertificate.existingSecret }}
- --cert-file
- /etc/iot-sensor/probe/client.crt
- --key-file
- /etc/iot-sensor/probe/client.key
{{- end }}
{{- end -}}

{{/* Secret and key of each file above, as lines `secret:key`. */}}
{{- define "iot-sensor.tlsRequired" -}}
{{- $tls := .Values.api.tls -}}
{{- with $tls.existingSecret }}
{{ . }}:{{ $tls.existingSecretCertificateKey }}
{{ . }}:{{ $tls.existingSecretPrivateKey }}
{{- with $tls.existingSecretCaKey }}
{{ $tls.existingSecret }}:{{ . }}
{{- end }}
{{- end }}
{{- range list $tls.clients.ca $tls.clients.crl }}
{{- if .existingSecret }}
{{ .existingSecret }}:{{ .existingSecretKey }}
{{- end }}
{{- end }}
{{- $pairs := list (list .Values.probe.clientCertificate.existingSecret .Values.probe.clientCertificate) -}}
{{- range $store := list .Values.redis .Values.postgres }}
{{- range $component := list "api" "writer" "rotation" "migration" }}
{{- $own := get $store $component }}
{{- $unused := or (and (eq $component "rotation") (not $.Values.keys.rotation.enabled)) (and (eq $component "migration") (not $.Values.migrations.enabled) (not $.Values.keys.rotation.enabled)) }}
{{- if and $own (not $unused) }}
{{- $pairs = append $pairs (list ($own.clientCertificateSecret | default $store.clientCertificate.existingSecret) $store.clientCertificate) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $pairs }}
{{- $block := last . }}
{{- with first . }}
{{ . }}:{{ $block.existingSecretCertificateKey }}
{{ . }}:{{ $block.existingSecretPrivateKey }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Refuse TLS values that need another value, if that value is not set. */}}
{{- define "iot-sensor.validateTls" -}}
{{- $values := .Values -}}
{{- $tls := $values.api.tls -}}
{{- $clients := $tls.clients -}}
{{- range $name, $block := dict "api.tls" $tls "probe.clientCertificate" $values.probe.clientCertificate "redis.clientCertificate" $values.redis.clientCertificate "postgres.clientCertificate" $values.postgres.clientCertificate -}}
{{- range $field := list "existingSecretCertificateKey" "existingSecretPrivateKey" -}}
{{- if not (get $block $field) -}}
{{- fail (printf "\n\n%s.%s is empty: set it to a key of the Secret, such as %s." $name $field (eq $field "existingSecretPrivateKey" | ternary "tls.key" "tls.crt")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := list "ca" "crl" -}}
{{- if not (get $clients $name).existingSecretKey -}}
{{- fail (printf "\n\napi.tls.clients.%s.existingSecretKey is empty: set it to a key of the Secret." $name) -}}
{{- end -}}
{{- end -}}
{{- if and $clients.ca.existingSecret (not $tls.existingSecret) -}}
{{- fail "\n\napi.tls.clients.ca is set, but the API serves http: set api.tls.existingSecret as well." -}}
{{- end -}}
{{- if and $clients.ca.existingSecret (not $values.auth.enabled) -}}
{{- fail "\n\napi.tls.clients.ca is set, but auth.enabled is false, and a client certificate stands for a token: set auth.enabled=true." -}}
{{- end -}}
{{- range $name, $value := dict "crl.existingSecret" $clients.crl.existingSecret "required" $clients.required -}}
{{- if and $value (not $clients.ca.existingSecret) -}}
{{- fail (printf "\n\napi.tls.clients.%s is set, but the API asks for no client certificate: set api.tls.clients.ca.existingSecret as well." $name) -}}
{{- end -}}
{{- end -}}
{{- if and $values.probe.clientCertificate.existingSecret (not $clients.ca.existingSecret) -}}
{{- fail "\n\nprobe.clientCertificate is set, but the API asks for no client certificate: set api.tls.clients.ca.existingSecret as well." -}}
{{- end -}}
{{- if and $clients.required (not $values.probe.clientCertificate.existingSecret) -}}
{{- fail "\n\napi.tls.clients.required refuses `helm test` and the canary, which have no certificate: set probe.clientCertificate.existingSecret." -}}
{{- end -}}
{{- end -}}

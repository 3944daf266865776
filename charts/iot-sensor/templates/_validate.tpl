{{/* Checks that the schema can't express. Each message says which value to set. */}}
{{- define "iot-sensor.validate" -}}
{{- $values := .Values -}}

{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "iot-sensor.fullname" .)) -}}
{{- fail (printf "\n\n%s can't be the name of a Service, since such a name begins with a letter and has no dot: set fullnameOverride." (include "iot-sensor.fullname" .)) -}}
{{- end -}}

{{- $postgres := list -}}
{{- if $values.postgres.existingSecret }}{{ $postgres = append $postgres "postgres.existingSecret" }}{{ end -}}
{{- if $values.postgres.url }}{{ $postgres = append $postgres "postgres.url" }}{{ end -}}
{{- if $values.postgres.internal.enabled }}{{ $postgres = append $postgres "postgres.internal.enabled" }}{{ end -}}
{{- $apart := and $values.postgres.api.existingSecret $values.postgres.writer.existingSecret (or $values.postgres.migration.existingSecret (not $values.migrations.enabled)) -}}
{{- if and (not $postgres) (not $apart) -}}
{{- fail "\n\nNo Postgres: set postgres.existingSecret to a Secret that holds its URL (key `url`), or postgres.url to a URL without a password, or, for a demo, postgres.internal.enabled=true." -}}
{{- else if gt (len $postgres) 1 -}}
{{- fail (printf "\n\nMore than one Postgres: set only one of %s." (join ", " $postgres)) -}}
{{- end -}}

{{- $redis := list -}}
{{- if $values.redis.existingSecret }}{{ $redis = append $redis "redis.existingSecret" }}{{ end -}}
{{- if $values.redis.url }}{{ $redis = append $redis "redis.url" }}{{ end -}}
{{- if $values.redis.internal.enabled }}{{ $redis = append $redis "redis.internal.enabled" }}{{ end -}}
{{- if not (or $redis (and $values.redis.api.existingSecret $values.redis.writer.existingSecret)) -}}
{{- fail "\n\nNo Redis: set redis.existingSecret to a Secret that holds its URL (key `url`), or redis.url to a URL without a password, or, for a demo, redis.internal.enabled=true." -}}
{{- else if gt (len $redis) 1 -}}
{{- fail (printf "\n\nMore than one Redis: set only one of %s." (join ", " $redis)) -}}
{{- end -}}
{{- if and $values.redis.hotWindow.existingSecret $values.redis.hotWindow.url -}}
{{- fail "\n\nMore than one Redis of the hot window: set only one of redis.hotWindow.existingSecret, redis.hotWindow.url." -}}
{{- end -}}

{{- range $own, $other := dict "api" "writer" "writer" "api" -}}
{{- $hotWindow := $values.redis.hotWindow -}}
{{- if and (get $hotWindow $own | default dict).existingSecret (not (or (get $hotWindow $other | default dict).existingSecret $hotWindow.existingSecret $hotWindow.url)) -}}
{{- fail (printf "\n\nredis.hotWindow.%s.existingSecret is set, but the API and the writers must use the same hot window: set redis.hotWindow.%s.existingSecret as well." $own $other) -}}
{{- end -}}
{{- end -}}

{{- if $values.keys.rotation.enabled -}}
{{- range $store, $component := dict "redis" "rotation" "postgres" "migration" -}}
{{- $block := get $values $store -}}
{{- if not (or $block.url (include "iot-sensor.storeRef" (dict "context" $ "store" $store "component" "rotation"))) -}}
{{- fail (printf "\n\nkeys.rotation needs a URL of %s: set %s.%s.existingSecret." $store $store $component) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $name, $url := dict "postgres.url" $values.postgres.url "redis.url" $values.redis.url "redis.hotWindow.url" $values.redis.hotWindow.url -}}
{{- $url = $url | default "" -}}
{{- if regexMatch "://[^/@]*:[^/@]+@|[?&][a-z_]*password=" $url -}}
{{- fail (printf "\n\n%s holds a password, which everybody who may read the release would see: put the URL into a Secret and set %s.existingSecret." $name (trimSuffix ".url" $name)) -}}
{{- end -}}
{{- end -}}

{{- range $name, $block := dict "keys" $values.keys "keys.writer" $values.keys.writer "auth" $values.auth "redis" $values.redis "redis.ca" $values.redis.ca "redis.hotWindow" $values.redis.hotWindow "postgres" $values.postgres "postgres.ca" $values.postgres.ca "probe" $values.probe -}}
{{- range $field, $key := $block -}}
{{- if and $block.existingSecret (hasPrefix "existingSecret" $field) (not $key) -}}
{{- fail (printf "\n\n%s.existingSecret names a Secret, but %s.%s is empty: set it to a key of that Secret." $name $name $field) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $name, $block := dict "redis" $values.redis "redis.hotWindow" $values.redis.hotWindow "postgres" $values.postgres -}}
{{- range $component := list "api" "writer" "migration" "rotation" -}}
{{- $own := get $block $component | default dict -}}
{{- if and $own.existingSecretKey (not $own.existingSecret) (not $block.existingSecret) -}}
{{- fail (printf "\n\n%s.%s.existingSecretKey is set without a Secret: set %s.%s.existingSecret or %s.existingSecret as well." $name $component $name $component $name) -}}
{{- end -}}
{{- if and $own.existingSecret (not $own.existingSecretKey) (not $block.existingSecretKey) -}}
{{- fail (printf "\n\n%s.%s.existingSecret names a Secret, but its key is empty: set %s.%s.existingSecretKey or %s.existingSecretKey to a key of that Secret." $name $component $name $component $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range list (list "keys" $values.keys "existingSecretKey" "keyring.json") (list "keys.writer" $values.keys.writer "existingSecretKey" "writer-keys.json") (list "auth" $values.auth "existingSecretKey" "tokens.json") (list "probe" $values.probe "existingSecretTokenKey" "token") (list "probe" $values.probe "existingSecretPasswordKey" "password") (list "redis" $values.redis "existingSecretKey" "url") (list "postgres" $values.postgres "existingSecretKey" "url") -}}
{{- $name := first . -}}
{{- $block := index . 1 -}}
{{- $field := index . 2 -}}
{{- $named := $block.existingSecret -}}
{{- if has $name (list "redis" "postgres") -}}
{{- range $component := list "api" "writer" "migration" "rotation" -}}
{{- $named = or $named (get $block $component | default dict).existingSecret -}}
{{- end -}}
{{- end -}}
{{- if and (not $named) (ne (get $block $field) (last .)) -}}
{{- fail (printf "\n\n%s.%s is set without a Secret: set %s.existingSecret as well." $name $field $name) -}}
{{- end -}}
{{- end -}}

{{- if and $values.writer.hpa.enabled $values.writer.keda.enabled -}}
{{- fail "\n\nThe writer has two scalers: set only one of writer.hpa.enabled, writer.keda.enabled." -}}
{{- end -}}
{{- $most := dict "writer.replicas" $values.writer.replicas -}}
{{- if $values.writer.hpa.enabled }}{{ $most = dict "writer.hpa.maxReplicas" $values.writer.hpa.maxReplicas }}{{ end -}}
{{- if $values.writer.keda.enabled }}{{ $most = dict "writer.keda.maxReplicas" $values.writer.keda.maxReplicas }}{{ end -}}
{{- range $name, $count := $most -}}
{{- if gt (int $count) (int $values.shards) -}}
{{- fail (printf "\n\n%s is %d, but one writer at a time drains a shard, and there are %d shards: set %s to %d or less, or raise shards." $name (int $count) (int $values.shards) $name (int $values.shards)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $scaler := dict "api.hpa" $values.api.hpa "writer.hpa" $values.writer.hpa "writer.keda" $values.writer.keda -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- fail (printf "\n\n%s.minReplicas is %d and exceeds %s.maxReplicas, which is %d: lower minReplicas or raise maxReplicas." $name (int $scaler.minReplicas) $name (int $scaler.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $hpa := dict "api.hpa" $values.api.hpa "writer.hpa" $values.writer.hpa -}}
{{- if and $hpa.enabled (not $hpa.targetCPUUtilizationPercentage) (not $hpa.metrics) -}}
{{- fail (printf "\n\n%s has no metric: set %s.targetCPUUtilizationPercentage or %s.metrics." $name $name $name) -}}
{{- end -}}
{{- end -}}

{{- if and $values.openshift (or $values.redis.internal.enabled $values.postgres.internal.enabled) -}}
{{- fail "\n\nThe demo's Redis and Postgres do not run on OpenShift, because their images run as fixed users: set redis.existingSecret and postgres.existingSecret instead of internal.enabled." -}}
{{- end -}}

{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "\n\nThe ingress has no host: set ingress.hosts, such as ingress.hosts={sensors.example.org}." -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "\n\nThe HTTPRoute has no gateway: set httpRoute.parentRefs, such as httpRoute.parentRefs[0].name=my-gateway." -}}
{{- end -}}

{{- if and $values.auth.enabled $values.auth.existingSecret (not $values.probe.existingSecret) -}}
{{- fail "\n\nauth.existingSecret is set, so the chart has no token for `helm test`: set probe.existingSecret to a Secret with a token of the scopes ingest and read (key `token`) and a password (key `password`)." -}}
{{- end -}}
{{- if and $values.auth.enabled (not $values.auth.existingSecret) (not $values.auth.initialTokens) -}}
{{- fail "\n\nNo token exists, so nobody could use the API: set auth.initialTokens or auth.existingSecret, or auth.enabled=false for a service without tokens." -}}
{{- end -}}

{{- $names := list -}}
{{- range $component, $block := dict "api" $values.api "writer" $values.writer -}}
{{- if $block.serviceAccount.create }}{{ $names = append $names (include "iot-sensor.serviceAccountName" (dict "context" $ "component" $component "values" $block)) }}{{ end -}}
{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- fail (printf "\n\nThe API and the writers would both create the ServiceAccount %s: set writer.serviceAccount.create=false, or give it another name." (first $names)) -}}
{{- end -}}

{{- $service := $values.api.service -}}
{{- range $field := list "externalTrafficPolicy" "nodePort" -}}
{{- if and (get $service $field) (eq $service.type "ClusterIP") -}}
{{- fail (printf "\n\napi.service.%s is set, but api.service.type is ClusterIP: set the type to NodePort or LoadBalancer, or leave %s empty." $field $field) -}}
{{- end -}}
{{- end -}}
{{- range $field := list "loadBalancerClass" "loadBalancerSourceRanges" -}}
{{- if and (get $service $field) (ne $service.type "LoadBalancer") -}}
{{- fail (printf "\n\napi.service.%s is set, but api.service.type is %s: set the type to LoadBalancer, or leave %s empty." $field $service.type $field) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (len ($service.ipFamilies | default list)) 1) (not (has $service.ipFamilyPolicy (list "PreferDualStack" "RequireDualStack"))) -}}
{{- fail "\n\napi.service.ipFamilies names two families: set api.service.ipFamilyPolicy to PreferDualStack or RequireDualStack." -}}
{{- end -}}
{{- if and (or (has "IPv6" $service.ipFamilies) (has $service.ipFamilyPolicy (list "PreferDualStack" "RequireDualStack"))) (not (contains ":" $values.bindAddress)) -}}
{{- fail (printf "\n\nThe Service has IPv6, but the pods listen on %s only: set bindAddress to `::`." $values.bindAddress) -}}
{{- end -}}
{{- if and $service.sessionAffinityConfig (ne $service.sessionAffinity "ClientIP") -}}
{{- fail "\n\napi.service.sessionAffinityConfig is set without affinity: set api.service.sessionAffinity to ClientIP as well." -}}
{{- end -}}

{{- $silent := $values.metrics.rules.alerts.IotCanarySilent | default dict -}}
{{- if and $values.canary.enabled $values.metrics.rules.enabled $silent.enabled (gt (int $values.canary.everySeconds) 600) -}}
{{- fail (printf "\n\nThe canary would send a reading every %d seconds, and the alert IotCanarySilent fires after 15 minutes without one: set canary.everySeconds to 600 or less, or metrics.rules.alerts.IotCanarySilent.enabled=false." (int $values.canary.everySeconds)) -}}
{{- end -}}

{{- $migrates := and $values.migrations.enabled (not $values.postgres.internal.enabled) -}}
{{- range $name, $job := dict "migrations" (ternary $values.migrations dict $migrates) "keys.rotation" (ternary $values.keys.rotation dict $values.keys.rotation.enabled) -}}
{{- if and $job (ge (int $job.waitSeconds) (int $job.deadlineSeconds)) -}}
{{- fail (printf "\n\n%s.waitSeconds is %d, but after %d seconds (%s.deadlineSeconds) Kubernetes ends the Job and deletes the log of the waiting pod: lower waitSeconds or raise deadlineSeconds." $name (int $job.waitSeconds) (int $job.deadlineSeconds) $name) -}}
{{- end -}}
{{- end -}}

{{- if lt (int $values.api.terminationGracePeriodSeconds) (add 30 (int $values.api.preStopSleepSeconds) 1 | int) -}}
{{- fail (printf "\n\nPods would be killed while requests run: set api.terminationGracePeriodSeconds above %d, which is api.preStopSleepSeconds plus the 30 seconds for running requests." (add 30 (int $values.api.preStopSleepSeconds))) -}}
{{- end -}}

{{- include "iot-sensor.validateTls" . -}}
{{- include "iot-sensor.validateExtras" . -}}
{{- end -}}

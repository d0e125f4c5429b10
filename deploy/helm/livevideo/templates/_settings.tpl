{{/* The settings of each service, as the Settings of services/NAME/service.py read them; as a map from variable to text. */}}

{{- define "livevideo.settings" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $name := .name -}}
{{- $isTls := include "livevideo.isTls" $root -}}
{{- $ports := index (include "livevideo.ports" $root | fromYaml) $name -}}
{{- $env := dict "METRICS_PORT" (include "livevideo.metricsPort" $root) -}}
{{- if ne $name "engine" -}}
{{- $_ := set $env "ADDRESS" (printf "0.0.0.0:%d" (int (default $ports.health $ports.public))) -}}
{{- end -}}
{{- if $isTls -}}
{{- $_ := set $env "TLS_CERT_FILE" "/tls/tls.crt" -}}
{{- $_ := set $env "TLS_KEY_FILE" "/tls/tls.key" -}}
{{- $_ := set $env "TLS_CA_FILE" "/tls/ca.crt" -}}
{{- $_ := set $env "TLS_PEER_NAME" $values.tls.peerName -}}
{{- end -}}
{{- if and $values.tls.players.secret (has $name (list "control" "decoder" "sessions")) -}}
{{- $_ := set $env "TLS_PLAYER_CA_FILE" (printf "/players/%s" $values.tls.players.key) -}}
{{- end -}}
{{- if has $name (list "control" "decoder" "engine") -}}
{{- $_ := set $env "SESSIONS_ADDRESS" (include "livevideo.address" (dict "root" $root "name" "sessions" "port" "internal")) -}}
{{- end -}}
{{- if has $name (list "decoder" "engine") -}}
{{- $_ := set $env "CHECKPOINT" $values.model.checkpoint -}}
{{- end -}}
{{- if eq $name "sessions" -}}
{{- $_ := set $env "INTERNAL_ADDRESS" (printf "0.0.0.0:%d" (int $ports.internal)) -}}
{{- $_ := set $env "ADMIN_ADDRESS" (printf "127.0.0.1:%s" (include "livevideo.adminPort" $root)) -}}
{{- $_ := set $env "REDIS_URL" ($values.redis.trial.enabled | ternary (include "livevideo.trialRedis" $root) $values.redis.url) -}}
{{- with $values.redis.user }}{{ $_ := set $env "REDIS_USER" . }}{{ end -}}
{{- with $values.redis.copies }}{{ $_ := set $env "REDIS_COPIES" (toString .) }}{{ end -}}
{{- if $values.redis.password.secret }}{{ $_ := set $env "REDIS_PASSWORD_FILE" (printf "/redis-password/%s" $values.redis.password.key) }}{{ end -}}
{{- if $values.redis.sentinelPassword.secret }}{{ $_ := set $env "REDIS_SENTINEL_PASSWORD_FILE" (printf "/redis-sentinelpassword/%s" $values.redis.sentinelPassword.key) }}{{ end -}}
{{- if $values.redis.ca.secret }}{{ $_ := set $env "REDIS_CA_FILE" (printf "/redis-ca/%s" $values.redis.ca.key) }}{{ end -}}
{{- if $values.redis.clientCertificate -}}
{{- $_ := set $env "REDIS_CERT_FILE" "/redis-client/tls.crt" -}}
{{- $_ := set $env "REDIS_KEY_FILE" "/redis-client/tls.key" -}}
{{- end -}}
{{- if $isTls }}{{ $_ := set $env "TLS_CALLERS" "control,decoder,engine,sessions" }}{{ end -}}
{{- end -}}
{{- if and $values.tracing.endpoint (ne $name "web") -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_ENDPOINT" $values.tracing.endpoint -}}
{{- end -}}
{{- if and (eq $name "control") (gt (float64 $values.tracing.sampling) 0.0) -}}
{{- $_ := set $env "TRACE_SAMPLING" (toString $values.tracing.sampling) -}}
{{- end -}}
{{- if eq $name "web" -}}
{{- $_ := set $env "PAGE_ADDRESS" (printf "0.0.0.0:%d" (int $ports.page)) -}}
{{- $_ := set $env "SESSIONS_ADDRESS" (include "livevideo.address" (dict "root" $root "name" "sessions" "port" "public")) -}}
{{- $_ := set $env "CONTROL_ADDRESS" (include "livevideo.address" (dict "root" $root "name" "control" "port" "public")) -}}
{{- $_ := set $env "FRAMES_ADDRESS" (include "livevideo.address" (dict "root" $root "name" "decoder" "port" "public")) -}}
{{- if $values.api.pageKeySecret }}{{ $_ := set $env "API_KEY_FILE" (printf "/api-key/%s" $values.api.pageKey) }}{{ end -}}
{{- if $values.tls.page -}}
{{- $_ := set $env "TLS_PUBLIC_CERT_FILE" "/page-tls/tls.crt" -}}
{{- $_ := set $env "TLS_PUBLIC_KEY_FILE" "/page-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- if eq $name "engine" -}}
{{- $engine := $values.engine -}}
{{- $_ := set $env "SLOTS" (toString $engine.slots) -}}
{{- if $isTls }}{{ $_ := set $env "TLS_CALLERS" "decoder" }}{{ end -}}
{{- if $engine.ray.enabled -}}
{{- $_ := set $env "REPLICAS" (toString $engine.replicas) -}}
{{- $_ := set $env "SHARDS" (toString $engine.shards) -}}
{{- $_ := set $env "CPUS_PER_RANK" (toString $engine.ray.cpusPerRank) -}}
{{- $_ := set $env "GPUS_PER_RANK" (gt (int $engine.gpus) 0 | ternary "1" "0") -}}
{{- $_ := set $env "LISTEN_HOST" "0.0.0.0" -}}
{{- $_ := set $env "PORT" (toString $ports.internal) -}}
{{- $_ := set $env "DRAIN_S" (toString $engine.drainSeconds) -}}
{{- else -}}
{{- $_ := set $env "ADDRESS" (printf "0.0.0.0:%d" (int $ports.internal)) -}}
{{- $_ := set $env "ADVERTISED_ADDRESS" (printf "$(POD_IP):%d" (int $ports.internal)) -}}
{{- $_ := set $env "DEVICE" (gt (int $engine.gpus) 0 | ternary "cuda:0" "cpu") -}}
{{- end -}}
{{- $_ := set $env "LEAVE_S" (toString $engine.drainSeconds) -}}
{{- end -}}
{{- if eq $name "decoder" -}}
{{- $_ := set $env "DEVICE" (gt (int $values.decoder.gpus) 0 | ternary "cuda:0" "cpu") -}}
{{- end -}}
{{- range $variable, $value := (index $values $name).settings -}}
{{- /* Helm reads every number as a float, and would write a large one with an exponent. */ -}}
{{- $isWhole := and (kindIs "float64" $value) (eq (float64 (int64 $value)) $value) -}}
{{- $_ := set $env $variable (ternary (printf "%d" (int64 $value)) (toString $value) $isWhole) -}}
{{- end -}}
{{- toYaml $env -}}
{{- end }}

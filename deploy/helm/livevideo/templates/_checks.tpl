{{/* What cannot be is refused here, by the value's name, before anything is applied. */}}

{{- define "livevideo.check" -}}
{{- include "livevideo.check.choices" . -}}
{{- include "livevideo.check.engine" . -}}
{{- include "livevideo.check.times" . -}}
{{- include "livevideo.check.kinds" . -}}
{{- if .Values.checkSecrets }}{{ include "livevideo.check.secrets" . }}{{ end -}}
{{- end }}

{{- define "livevideo.check.choices" -}}
{{- $redis := .Values.redis -}}
{{- if and (not $redis.url) (not $redis.trial.enabled) -}}
{{- fail "redis.url is empty; give the address of a Redis or Valkey, or set redis.trial.enabled for one that is for trials alone" -}}
{{- end -}}
{{- if and $redis.url $redis.trial.enabled -}}
{{- fail "redis.url and redis.trial.enabled are both set; leave one of them out" -}}
{{- end -}}
{{- if regexMatch "://[^/]*@" $redis.url -}}
{{- fail "redis.url holds a user or a password, which everybody sees who sees the release; set redis.user, put the password into a Secret and name that in redis.password.secret" -}}
{{- end -}}
{{- if and $redis.url (not (regexMatch "^rediss?(\\+(sentinel|cluster))?://" $redis.url)) -}}
{{- fail (printf "redis.url is %q; begin it with redis://, rediss://, redis+sentinel:// or redis+cluster://" $redis.url) -}}
{{- end -}}
{{- if and (or $redis.ca.secret $redis.clientCertificate) (not (hasPrefix "rediss" $redis.url)) -}}
{{- fail (printf "redis.ca.secret or redis.clientCertificate is set, and redis.url, %q, is no address with TLS; begin it with rediss" $redis.url) -}}
{{- end -}}
{{- if and $redis.sentinelPassword.secret (not (contains "+sentinel" $redis.url)) -}}
{{- fail (printf "redis.sentinelPassword.secret is set, and redis.url, %q, names no Sentinels; begin it with redis+sentinel://" $redis.url) -}}
{{- end -}}
{{- if and $redis.user (not $redis.password.secret) -}}
{{- fail (printf "redis.user is %q and redis.password.secret is empty; name the Secret with the user's password" $redis.user) -}}
{{- end -}}
{{- if and (gt (int $redis.copies) 0) (or $redis.trial.enabled (contains "cluster" $redis.url)) -}}
{{- fail (printf "redis.copies is %d, and neither a cluster nor redis.trial can be waited for; leave it out" (int $redis.copies)) -}}
{{- end -}}
{{- if eq .Values.image.tag "latest" -}}
{{- fail "image.tag is latest, which is another image tomorrow; name a version, or digests in image.digests" -}}
{{- end -}}
{{- $tls := .Values.tls -}}
{{- if eq $tls.mode "" -}}
{{- fail "tls.mode is empty; choose certManager, secrets (your own certificates), or none (plain text, for trials)" -}}
{{- end -}}
{{- if and (eq $tls.mode "certManager") (not $tls.issuer.name) -}}
{{- fail "tls.mode is certManager and tls.issuer.name is empty; name the issuer that signs our services' certificates" -}}
{{- end -}}
{{- if eq $tls.mode "secrets" -}}
{{- range $name, $secret := $tls.secrets -}}
{{- if and (not $secret) (or (ne $name "web") $.Values.web.enabled) -}}
{{- fail (printf "tls.mode is secrets and tls.secrets.%s is empty; name the Secret with its tls.crt, tls.key and ca.crt" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $tls.page (eq $tls.mode "none") -}}
{{- fail "tls.page is set and tls.mode is none; choose certManager or secrets, or leave tls.page out" -}}
{{- end -}}
{{- if and $tls.players.secret (eq $tls.mode "none") -}}
{{- fail "tls.players.secret is set and tls.mode is none; choose certManager or secrets, or leave tls.players.secret out" -}}
{{- end -}}
{{- $gateway := .Values.gateway -}}
{{- if and $tls.players.secret $gateway.enabled -}}
{{- fail "tls.players.secret is set and gateway.enabled, too; a gateway shows our services no player's certificate: leave one of them out" -}}
{{- end -}}
{{- if and $gateway.enabled (not $gateway.parentRefs) -}}
{{- fail "gateway.enabled is set and gateway.parentRefs is empty; name the Gateway that the routes belong to" -}}
{{- end -}}
{{- if and $gateway.enabled (include "livevideo.isTls" .) (not $gateway.caConfigMap) -}}
{{- fail "gateway.enabled is set with TLS and gateway.caConfigMap is empty; name the ConfigMap with ca.crt, by which the gateway knows our services" -}}
{{- end -}}
{{- if and .Values.metrics.prometheusRule.enabled (not (.Files.Get "files/rules.yaml")) -}}
{{- fail "metrics.prometheusRule.enabled is set and the chart has no files/rules.yaml; say make rules, and package it again" -}}
{{- end -}}
{{- if and .Values.metrics.dashboards.enabled (not (.Files.Glob "files/dashboards/*.json")) -}}
{{- fail "metrics.dashboards.enabled is set and the chart has no files/dashboards; say make rules, and package it again" -}}
{{- end -}}
{{- $tracing := .Values.tracing -}}
{{- if and (gt (float64 $tracing.sampling) 0.0) (not $tracing.endpoint) -}}
{{- fail (printf "tracing.sampling is %v and tracing.endpoint is empty; say where the collector is, or leave both out" $tracing.sampling) -}}
{{- end -}}
{{- if and $tracing.endpoint (not (regexMatch "^https?://[^/@:]+:[0-9]+/?$" $tracing.endpoint)) -}}
{{- fail (printf "tracing.endpoint is %q; write it with its port, and without a user, as http://collector.monitoring:4318" $tracing.endpoint) -}}
{{- end -}}
{{- $scaling := .Values.autoscaling -}}
{{- if and (eq $scaling.kind "keda") (not $scaling.prometheusUrl) -}}
{{- fail "autoscaling.kind is keda and autoscaling.prometheusUrl is empty; say where Prometheus answers" -}}
{{- end -}}
{{- if and $scaling.kind (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %d and autoscaling.maxReplicas %d; the former may not be above the latter" (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- $seats := mul (sub (int $scaling.maxReplicas) 1) (int .Values.engine.slots) -}}
{{- if and $scaling.kind (gt (int $scaling.maxReplicas) (int $scaling.minReplicas)) (lt (add (mul 100 (int $scaling.spareSessions)) (mul (int $scaling.sparePercent) $seats)) (mul 12 $seats)) -}}
{{- fail (printf "autoscaling.sparePercent is %d: when all seats are taken, hardly a tenth more is wanted, which Kubernetes overlooks, and there would never be %d engines; make it 15 or more" (int $scaling.sparePercent) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- end }}

{{- define "livevideo.check.engine" -}}
{{- $engine := .Values.engine -}}
{{- $gpus := int $engine.gpus -}}
{{- $shards := int $engine.shards -}}
{{- if not $engine.ray.enabled -}}
{{- if gt $shards 1 -}}
{{- fail (printf "engine.shards is %d and engine.ray.enabled is false; only a gang on Ray shares a latent: set engine.ray.enabled, or engine.shards to 1" $shards) -}}
{{- end -}}
{{- if gt $gpus 1 -}}
{{- fail (printf "engine.gpus is %d and engine.ray.enabled is false; one process computes on one GPU: set engine.ray.enabled and engine.shards, or engine.gpus to 1" $gpus) -}}
{{- end -}}
{{- else -}}
{{- if and (gt $gpus 0) (ne $gpus $shards) -}}
{{- fail (printf "engine.gpus is %d and engine.shards is %d; every rank of a replica computes on one GPU, so make them equal, or engine.gpus 0 for CPUs" $gpus $shards) -}}
{{- end -}}
{{- if and (gt $shards 1) (get $engine.settings "IS_COMPILED") -}}
{{- fail (printf "engine.settings.IS_COMPILED is true and engine.shards is %d; ranks cannot share a compiled network: leave it out" $shards) -}}
{{- end -}}
{{- if not $engine.ray.gcs.redisAddress -}}
{{- fail "engine.ray.enabled is set and engine.ray.gcs.redisAddress is empty; without a Redis all engines end when Ray's head does" -}}
{{- end -}}
{{- if and $engine.ray.gcs.caSecret (not (hasPrefix "rediss://" $engine.ray.gcs.redisAddress)) -}}
{{- fail (printf "engine.ray.gcs.caSecret is set, and engine.ray.gcs.redisAddress, %q, is no address with TLS; begin it with rediss://" $engine.ray.gcs.redisAddress) -}}
{{- end -}}
{{- if regexMatch "://[^/]*@" $engine.ray.gcs.redisAddress -}}
{{- fail "engine.ray.gcs.redisAddress holds a user or a password; set engine.ray.gcs.user and engine.ray.gcs.passwordSecret" -}}
{{- end -}}
{{- if and (eq $engine.ray.upgrade.type "NewClusterWithIncrementalUpgrade") (not $engine.ray.upgrade.gatewayClassName) -}}
{{- fail "engine.ray.upgrade.type is NewClusterWithIncrementalUpgrade and engine.ray.upgrade.gatewayClassName is empty; KubeRay needs one, or choose NewCluster" -}}
{{- end -}}
{{- if .Values.autoscaling.kind -}}
{{- fail (printf "autoscaling.kind is %s and engine.ray.enabled is set; a RayService cannot be scaled from outside: change engine.replicas" .Values.autoscaling.kind) -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.decoder.gpus) 1 -}}
{{- fail (printf "decoder.gpus is %d; a decoder uses one GPU or none" (int .Values.decoder.gpus)) -}}
{{- end -}}
{{- end }}

{{- define "livevideo.check.times" -}}
{{- range $name := list "control" "sessions" "decoder" "web" "engine" -}}
{{- $own := index $.Values $name -}}
{{- $least := add (int $own.preStopSeconds) (int $own.drainSeconds) -}}
{{- if le (int $own.graceSeconds) (int $least) -}}
{{- fail (printf "%s.graceSeconds is %d, and %s.preStopSeconds and %s.drainSeconds are %d and %d; Kubernetes would kill it before it has drained: make graceSeconds more than %d" $name (int $own.graceSeconds) $name $name (int $own.preStopSeconds) (int $own.drainSeconds) (int $least)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Custom resources that the values ask for and the cluster does not know. */}}
{{- define "livevideo.check.kinds" -}}
{{- $wanted := dict -}}
{{- if .Values.engine.ray.enabled }}{{ $_ := set $wanted "engine.ray.enabled" (list "ray.io/v1" "KubeRay") }}{{ end -}}
{{- if eq .Values.tls.mode "certManager" }}{{ $_ := set $wanted "tls.mode" (list "cert-manager.io/v1" "cert-manager") }}{{ end -}}
{{- if .Values.gateway.enabled }}{{ $_ := set $wanted "gateway.enabled" (list "gateway.networking.k8s.io/v1" "the Gateway API") }}{{ end -}}
{{- if eq .Values.autoscaling.kind "keda" }}{{ $_ := set $wanted "autoscaling.kind" (list "keda.sh/v1alpha1" "KEDA") }}{{ end -}}
{{- if .Values.metrics.serviceMonitor.enabled }}{{ $_ := set $wanted "metrics.serviceMonitor.enabled" (list "monitoring.coreos.com/v1" "Prometheus' operator") }}{{ end -}}
{{- if .Values.metrics.prometheusRule.enabled }}{{ $_ := set $wanted "metrics.prometheusRule.enabled" (list "monitoring.coreos.com/v1" "Prometheus' operator") }}{{ end -}}
{{- range $value, $needed := $wanted -}}
{{- if not ($.Capabilities.APIVersions.Has (first $needed)) -}}
{{- fail (printf "%s asks for %s, whose %s the cluster does not know; install it, or change %s (without a cluster: helm template --api-versions %s)" $value (last $needed) (first $needed) $value (first $needed)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Secrets that are named and not there; asked only where a cluster shows us the namespace. */}}
{{- define "livevideo.check.secrets" -}}
{{- if lookup "v1" "Namespace" "" .Release.Namespace -}}
{{- $named := dict "redis.password.secret" .Values.redis.password.secret "redis.sentinelPassword.secret" .Values.redis.sentinelPassword.secret "redis.ca.secret" .Values.redis.ca.secret "tls.players.secret" .Values.tls.players.secret "redis.clientCertificate" .Values.redis.clientCertificate "tls.page" .Values.tls.page "api.pageKeySecret" .Values.api.pageKeySecret "api.testKeySecret" .Values.api.testKeySecret -}}
{{- with .Values.engine.ray -}}
{{- if .enabled }}{{ $_ := set $named "engine.ray.gcs.passwordSecret" .gcs.passwordSecret }}{{ $_ := set $named "engine.ray.gcs.caSecret" .gcs.caSecret }}{{ end -}}
{{- end -}}
{{- if eq .Values.tls.mode "secrets" -}}
{{- range $name, $secret := .Values.tls.secrets -}}
{{- $_ := set $named (printf "tls.secrets.%s" $name) $secret -}}
{{- end -}}
{{- end -}}
{{- range $value, $secret := $named -}}
{{- if and $secret (not (lookup "v1" "Secret" $.Release.Namespace $secret)) -}}
{{- fail (printf "%s names the Secret %q, which is not in the namespace %s; make it first, or set checkSecrets to false" $value $secret $.Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

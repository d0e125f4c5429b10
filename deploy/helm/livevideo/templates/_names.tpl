{{/* Names, labels, images, ports. Templates of one service take (dict "root" $ "name" "control"). */}}

{{- define "livevideo.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "livevideo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "livevideo.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "livevideo.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Of everything that belongs to the release. */}}
{{- define "livevideo.release" -}}
app.kubernetes.io/name: {{ include "livevideo.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of the pods of one service. */}}
{{- define "livevideo.selector" -}}
{{ include "livevideo.release" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "livevideo.labels" -}}
{{ include "livevideo.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "livevideo.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{- $image.repository }}/{{ .name -}}
{{- with index $image.digests .name }}@{{ . }}{{ else }}:{{ default .root.Chart.AppVersion $image.tag }}{{ end -}}
{{- end }}

{{/* What listens where. `public` is for players, `internal` for our own services. */}}
{{- define "livevideo.ports" -}}
control: {public: 50051}
sessions: {public: 50052, internal: 50062}
decoder: {public: 50054}
web: {health: 50055, page: 8080}
engine: {internal: 50053}
{{- end }}
{{- define "livevideo.metricsPort" -}}9090{{- end }}
{{- define "livevideo.adminPort" -}}50056{{- end }}

{{/* host:port at which a service is called within the cluster; "port" names it. */}}
{{- define "livevideo.address" -}}
{{- $port := index (include "livevideo.ports" .root | fromYaml) .name .port -}}
{{- $suffix := eq .port "internal" | ternary "-internal" "" -}}
{{- printf "%s-%s%s.%s.svc:%d" (include "livevideo.fullname" .root) .name $suffix .root.Release.Namespace (int $port) -}}
{{- end }}

{{- define "livevideo.trialRedis" -}}
{{- printf "redis://%s-redis.%s.svc:6379" (include "livevideo.fullname" .) .Release.Namespace -}}
{{- end }}

{{/* Services that run here as Deployments, as a list under `names`. */}}
{{- define "livevideo.deployed" -}}
{{- $names := list "control" "sessions" "decoder" -}}
{{- if .Values.web.enabled }}{{ $names = append $names "web" }}{{ end -}}
{{- if not .Values.engine.ray.enabled }}{{ $names = append $names "engine" }}{{ end -}}
{{- toYaml (dict "names" $names) -}}
{{- end }}

{{/* The Secret with a service's own certificate. */}}
{{- define "livevideo.tlsSecret" -}}
{{- if eq .root.Values.tls.mode "certManager" -}}
{{- printf "%s-%s-tls" (include "livevideo.fullname" .root) .name -}}
{{- else -}}
{{- index .root.Values.tls.secrets .name -}}
{{- end -}}
{{- end }}

{{- define "livevideo.isTls" -}}
{{- if ne .Values.tls.mode "none" }}true{{ end -}}
{{- end }}

{{/* A pod's priority: its service's own, the chart's, or none. */}}
{{- define "livevideo.priority" -}}
{{- $own := (index .root.Values (get . "as" | default .name)).priorityClassName -}}
{{- if $own -}}
{{- $own -}}
{{- else if .root.Values.priorityClasses.create -}}
{{- printf "%s-%s" (include "livevideo.fullname" .root) (eq .name "engine" | ternary "engine" "services") -}}
{{- end -}}
{{- end }}

{{/*
Who calls whom: from, to, ports. A name is one of our components, or one of the peers of the values: players,
prometheus, collector, kuberay, dns, redis (an external one).
*/}}
{{- define "livevideo.edges" -}}
{{- $ports := include "livevideo.ports" . | fromYaml }}
{{- $metrics := include "livevideo.metricsPort" . | int }}
{{- $inside := list "control" "sessions" "decoder" "engine" -}}
{{- if .Values.web.enabled }}{{ $inside = append $inside "web" }}{{ end -}}
- {from: players, to: control, ports: [{{ $ports.control.public }}]}
- {from: players, to: sessions, ports: [{{ $ports.sessions.public }}]}
- {from: players, to: decoder, ports: [{{ $ports.decoder.public }}]}
{{- if .Values.web.enabled }}
- {from: players, to: web, ports: [{{ $ports.web.page }}]}
- {from: web, to: control, ports: [{{ $ports.control.public }}]}
- {from: web, to: sessions, ports: [{{ $ports.sessions.public }}]}
- {from: web, to: decoder, ports: [{{ $ports.decoder.public }}]}
{{- end }}
- {from: control, to: sessions, ports: [{{ $ports.sessions.internal }}]}
- {from: decoder, to: sessions, ports: [{{ $ports.sessions.internal }}]}
- {from: engine, to: sessions, ports: [{{ $ports.sessions.internal }}]}
- {from: decoder, to: engine, ports: [{{ $ports.engine.internal }}]}
- {from: test, to: control, ports: [{{ $ports.control.public }}]}
- {from: test, to: sessions, ports: [{{ $ports.sessions.public }}]}
- {from: test, to: decoder, ports: [{{ $ports.decoder.public }}]}
- {from: test, to: dns, ports: [53]}
- {from: sessions, to: redis, ports: {{ .Values.redis.trial.enabled | ternary (list 6379) .Values.redis.ports | toJson }}}
{{- range $inside }}
- {from: {{ . }}, to: dns, ports: [53]}
- {from: prometheus, to: {{ . }}, ports: [{{ $metrics }}]}
{{- end }}
{{- if .Values.tracing.endpoint }}
{{- range list "control" "sessions" "decoder" "engine" }}
- {from: {{ . }}, to: collector, ports: [{{ regexFind "[0-9]+/?$" $.Values.tracing.endpoint | trimSuffix "/" }}]}
{{- end }}
{{- end }}
{{- if .Values.engine.ray.enabled }}
- {from: ray-head, to: dns, ports: [53]}
- {from: ray-head, to: redis, ports: {{ .Values.redis.trial.enabled | ternary (list 6379) .Values.redis.ports | toJson }}}
- {from: ray-head, to: engine, ports: []}
- {from: ray-head, to: ray-head, ports: []}
- {from: engine, to: ray-head, ports: []}
- {from: engine, to: engine, ports: []}
- {from: kuberay, to: ray-head, ports: [8265, 8000]}
- {from: kuberay, to: engine, ports: [8000]}
{{- end }}
{{- end }}

{{/* The peers that a name stands for, as a list under `peers`; of (dict "root" $ "name" "control"). */}}
{{- define "livevideo.peers" -}}
{{- $given := .root.Values.networkPolicy -}}
{{- if hasKey $given .name -}}
{{- toYaml (dict "peers" (get $given .name)) -}}
{{- else if and (eq .name "redis") (not .root.Values.redis.trial.enabled) -}}
{{- toYaml (dict "peers" .root.Values.redis.peers) -}}
{{- else -}}
{{- toYaml (dict "peers" (list (dict "podSelector" (dict "matchLabels" (include "livevideo.selector" . | fromYaml))))) -}}
{{- end -}}
{{- end }}

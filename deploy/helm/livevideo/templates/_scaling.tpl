{{/* PromQL: how many engines and decoders are wanted. A pod more for each whole one that players and spare seats fill. */}}

{{- define "livevideo.playing" -}}
(sum(sessions_live{namespace={{ .Release.Namespace | quote }}}) or vector(0))
{{- end }}

{{- define "livevideo.wanted.engine" -}}
{{- $free := printf "slots_free{namespace=%q}" .Release.Namespace -}}
{{- $playing := include "livevideo.playing" . -}}
({{ $playing }} + {{ .Values.autoscaling.spareSessions }}) * count({{ $free }}) / clamp_min(sum({{ $free }}) + {{ $playing }}, 1)
{{- end }}

{{- define "livevideo.wanted.decoder" -}}
({{ include "livevideo.playing" . }} + {{ .Values.autoscaling.spareSessions }}) / {{ .Values.autoscaling.sessionsPerDecoder }}
{{- end }}

{{- define "livevideo.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- end }}

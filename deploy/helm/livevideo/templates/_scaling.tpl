{{/* PromQL: how many engines and decoders are wanted; nothing where no engine is read. A pod more for each whole one that players and spare seats fill. */}}

{{- define "livevideo.playing" -}}
(sum(sessions_live{namespace={{ .Release.Namespace | quote }}}) or vector(0))
{{- end }}

{{/* For those who play, and those who may come. */}}
{{- define "livevideo.seats" -}}
{{ include "livevideo.playing" . }} * (1 + {{ .Values.autoscaling.sparePercent }} / 100) + {{ .Values.autoscaling.spareSessions }}
{{- end }}

{{- define "livevideo.wanted.engine" -}}
{{- $free := printf "seats_free{namespace=%q}" .Release.Namespace -}}
{{- $playing := include "livevideo.playing" . -}}
({{ include "livevideo.seats" . }}) * count({{ $free }}) / clamp_min(sum({{ $free }}) + {{ $playing }}, 1)
{{- end }}

{{- define "livevideo.wanted.decoder" -}}
({{ include "livevideo.seats" . }}) / {{ .Values.autoscaling.sessionsPerDecoder }} and on() count(seats_free{namespace={{ .Release.Namespace | quote }}})
{{- end }}

{{- define "livevideo.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  selectPolicy: Max
  policies:
    - {type: Pods, value: 1, periodSeconds: 60}
    - {type: Percent, value: {{ .Values.autoscaling.scaleDownPercent }}, periodSeconds: 60}
{{- end }}

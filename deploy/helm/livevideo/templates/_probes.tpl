{{/* Whether players may be sent there. */}}
{{- define "livevideo.readiness" -}}
{{- if .isTls -}}
httpGet: {path: /readyz, port: metrics, scheme: HTTPS}
{{- else -}}
grpc: {port: {{ .port }}}
{{- end -}}
{{- end }}

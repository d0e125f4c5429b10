{{/* What every pod is: restricted, without a token, spread. And what each container reads: settings and files. */}}

{{- define "livevideo.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "livevideo.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "livevideo.resources" -}}
{{- $own := index .root.Values .name -}}
{{- $resources := deepCopy $own.resources -}}
{{- if gt (int (get $own "gpus")) 0 -}}
{{- $limits := get $resources "limits" | default dict -}}
{{- $_ := set $limits .root.Values.gpu.resource (int $own.gpus) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* Where a pod may lie. */}}
{{- define "livevideo.placement" -}}
{{- $root := .root }}
{{- $own := index $root.Values .name }}
{{- $hasGpus := gt (int (get $own "gpus")) 0 }}
{{- with include "livevideo.priority" . }}
priorityClassName: {{ . }}
{{- end }}
{{- if and $hasGpus $root.Values.gpu.runtimeClassName }}
runtimeClassName: {{ $root.Values.gpu.runtimeClassName }}
{{- end }}
{{- with merge (deepCopy $own.nodeSelector) ($hasGpus | ternary $root.Values.gpu.nodeSelector dict) }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with concat $own.tolerations ($hasGpus | ternary $root.Values.gpu.tolerations list) }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range $topology, $skew := dict "kubernetes.io/hostname" $root.Values.topologySpread.hostMaxSkew "topology.kubernetes.io/zone" $root.Values.topologySpread.zoneMaxSkew }}
  - topologyKey: {{ $topology }}
    maxSkew: {{ $skew }}
    whenUnsatisfiable: {{ $root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector: {matchLabels: {{ include "livevideo.selector" $ | fromYaml | toJson }}}
  {{- end }}
{{- end }}

{{/* What every pod of ours has, at the level of its spec. */}}
{{- define "livevideo.podBasics" -}}
serviceAccountName: {{ include "livevideo.fullname" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{ include "livevideo.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "livevideo.volumes" -}}
{{- $values := .root.Values }}
- name: tmp
  emptyDir: {}
{{- if include "livevideo.isTls" .root }}
- name: tls
  secret: {secretName: {{ include "livevideo.tlsSecret" . | quote }}, defaultMode: 0440}
{{- end }}
{{- if and (eq .name "web") $values.tls.page }}
- name: page-tls
  secret: {secretName: {{ $values.tls.page | quote }}, defaultMode: 0440}
{{- end }}
{{- if and (eq .name "web") $values.api.pageKeySecret }}
- name: api-key
  secret: {secretName: {{ $values.api.pageKeySecret | quote }}, defaultMode: 0440}
{{- end }}
{{- if and $values.tls.players.secret (has .name (list "control" "decoder" "sessions")) }}
- name: players
  secret: {secretName: {{ $values.tls.players.secret | quote }}, defaultMode: 0440}
{{- end }}
{{- if and (has .name (list "decoder" "engine")) $values.model.volume }}
- name: models
  {{- toYaml $values.model.volume | nindent 2 }}
{{- end }}
{{- if eq .name "sessions" }}
{{- range $what := list "password" "sentinelPassword" "ca" }}
{{- with (index $values.redis $what).secret }}
- name: redis-{{ lower $what }}
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- with $values.redis.clientCertificate }}
- name: redis-client
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end }}

{{- define "livevideo.mounts" -}}
{{- range include "livevideo.volumes" . | fromYamlArray }}
- name: {{ .name }}
  mountPath: /{{ .name }}
  {{- if ne .name "tmp" }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}

{{/* Labels that select the pod: they never change while the release exists. */}}
{{- define "valkey.selector" -}}
app.kubernetes.io/name: valkey
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. The chart's version is left out on purpose: it would be copied into pods. */}}
{{- define "valkey.labels" -}}
{{ include "valkey.selector" . }}
app.kubernetes.io/component: pubsub
app.kubernetes.io/part-of: matrix
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The server's configuration. The password is not in it: it comes from a file that the pod writes for itself. */}}
{{- define "valkey.configuration" -}}
bind * -::*
port 6379
protected-mode no
dir /data
save ""
appendonly no
maxmemory {{ .Values.maxMemory }}
maxmemory-policy allkeys-lru
tcp-keepalive 60
include /data/auth.conf
{{- end }}

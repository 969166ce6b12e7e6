{{/* Labels of every object. */}}
{{- define "foundation.labels" -}}
app.kubernetes.io/name: foundation
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: foundation
app.kubernetes.io/part-of: matrix
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

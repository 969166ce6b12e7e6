{{/* Labels of every object. The chart's version is left out on purpose: it would be copied into pods. */}}
{{- define "postgres.labels" -}}
app.kubernetes.io/name: postgres
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: database
app.kubernetes.io/part-of: matrix
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels of every object. The chart's version is left out on purpose: it would be copied into pods. */}}
{{- define "postgres.labels" -}}
app.kubernetes.io/name: postgres
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: database
app.kubernetes.io/part-of: matrix
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The Cluster's name: Services, pods and the Pooler are called after it. */}}
{{- define "postgres.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{- define "postgres.pooler" -}}
{{ include "postgres.name" . }}-pooler
{{- end }}

{{/* The ObjectStore: where archives are, this Cluster's own and the one that it was recovered from. */}}
{{- define "postgres.store" -}}
{{ .Release.Name }}-backup
{{- end }}

{{/* The folder of this Cluster's archive in the store. No two Clusters ever write into one. */}}
{{- define "postgres.archive" -}}
{{ .Values.backup.serverName | default (include "postgres.name" .) }}
{{- end }}

{{/* Server connections of one pooler pod: with one pod lost, the others have room for every client. */}}
{{- define "postgres.pool-size" -}}
{{- $others := sub .Values.pooler.instances 1 -}}
{{ div (add .Values.clients (sub $others 1)) $others }}
{{- end }}

{{/* Labels that select the pods of one type: they never change while the release exists. Argument: (dict "root" $ "type" name) */}}
{{- define "synapse.selector" -}}
app.kubernetes.io/name: {{ if eq .type "routing" }}haproxy{{ else }}synapse{{ end }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .type }}
{{- end }}

{{/* Labels of every object of one type. The chart's version is left out on purpose: it would be copied into pods. */}}
{{- define "synapse.labels" -}}
{{ include "synapse.selector" . }}
app.kubernetes.io/part-of: matrix
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* Name of a type's StatefulSet and headless Service; its pods are this with -0, -1, … and so are the workers' names. */}}
{{- define "synapse.name" -}}
{{ .root.Release.Name }}-{{ .type }}
{{- end }}

{{/* DNS name of one pod. Argument: (dict "root" $ "type" name "ordinal" n) */}}
{{- define "synapse.pod-host" -}}
{{- $name := include "synapse.name" . -}}
{{ $name }}-{{ .ordinal }}.{{ $name }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{/* The worker types in routing order, as YAML `types: […]`. */}}
{{- define "synapse.types" -}}
types:
  {{- .Files.Get "files/worker-types.yaml" | nindent 2 }}
{{- end }}

{{/*
The processes that run, in routing order, main first, as YAML `processes: […]`: name, replicas, resources, connections,
and what files/worker-types.yaml says of the type.
*/}}
{{- define "synapse.processes" -}}
{{- $root := . -}}
{{- $main := mergeOverwrite (dict "name" "main" "replicas" 1 "listeners" (list "client" "openid") "replicates" true "streams" (list) "routes" (list) "fallback" "none" "media" false) (deepCopy .Values.main) -}}
{{- $media := (index .Values.workers "media-repository" | default dict).replicas | default 0 | int -}}
{{- if eq $media 0 -}}
{{- $_ := set $main "media" true -}}
{{- $_ := set $main "listeners" (list "client" "openid" "media") -}}
{{- end -}}
{{- $processes := list $main -}}
{{- range $type := (fromYaml (include "synapse.types" .)).types -}}
{{- $entry := index $root.Values.workers $type.name | default dict -}}
{{- if gt (int ($entry.replicas | default 0)) 0 -}}
{{- $process := mergeOverwrite (deepCopy $root.Values.workerDefaults) (deepCopy $type) (deepCopy $entry) -}}
{{- $_ := set $process "streams" ($entry.streams | default list) -}}
{{- $_ := set $process "media" (has "media" $type.listeners) -}}
{{- $processes = append $processes $process -}}
{{- end -}}
{{- end -}}
{{- dict "processes" $processes | toYaml -}}
{{- end }}

{{/* requests and limits of `{cpu, memory, memoryLimit}` */}}
{{- define "synapse.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory | quote }}
limits:
  memory: {{ .memoryLimit | default .memory | quote }}
{{- end }}

{{/* Security of every container: nothing but to run. */}}
{{- define "synapse.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* One type's pods go to different nodes. Argument: (dict "root" $ "type" name) */}}
{{- define "synapse.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: {{ if eq .root.Values.spread "hard" }}DoNotSchedule{{ else }}ScheduleAnyway{{ end }}
  labelSelector:
    matchLabels:
      {{- include "synapse.selector" . | nindent 6 }}
{{- end }}

{{/* A configuration's identity: a change rolls the pods that read it. */}}
{{- define "synapse.hash" -}}
{{ . | sha256sum | trunc 16 }}
{{- end }}

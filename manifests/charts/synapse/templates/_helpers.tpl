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
what files/worker-types.yaml says of the type, and what follows from both:
maximum    as many as there may be at any time: replicas, or the bound of autoscaling
media      it serves media
replicates other processes call it on port 9093
Where a type does not run and another one writes its stream (`streams` in the values), that one gets its routes too.
*/}}
{{- define "synapse.processes" -}}
{{- $root := . -}}
{{- $on := dict "federation" .Values.federation.enabled "presence" .Values.presence.enabled -}}
{{- $types := list -}}
{{- $running := dict -}}
{{- range $type := (fromYaml (include "synapse.types" .)).types -}}
{{- if or (not $type.needs) (get $on ($type.needs | default "")) -}}
{{- $types = append $types $type -}}
{{- $entry := index $root.Values.workers $type.name | default dict -}}
{{- if gt (int ($entry.replicas | default 0)) 0 -}}
{{- $_ := set $running $type.name $entry -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $media := hasKey $running "media-repository" -}}
{{- $federation := .Values.federation.enabled -}}
{{- $client := list "client" ($federation | ternary "federation" "openid") -}}
{{- $main := dict "name" "main" "replicas" 1 "maximum" 1 "replicates" true "streams" (list) "routes" (list) "fallback" "none" "media" (not $media) "listeners" ($media | ternary $client (append $client "media")) -}}
{{- $processes := list (mergeOverwrite $main (deepCopy .Values.main)) -}}
{{- range $type := $types -}}
{{- $entry := get $running $type.name -}}
{{- if $entry -}}
{{- $process := mergeOverwrite (deepCopy $root.Values.workerDefaults) (deepCopy $type) (deepCopy $entry) -}}
{{- $streams := $type.streams | default list -}}
{{- $listeners := $type.listeners -}}
{{- $routes := $type.routes -}}
{{- range $owner := $types -}}
{{- $more := list -}}
{{- range $stream := $entry.streams -}}
{{- if and (has $stream ($owner.streams | default list)) (not (has $stream $streams)) -}}
{{- $more = append $more $stream -}}
{{- end -}}
{{- end -}}
{{- if $more -}}
{{- $streams = concat $streams $more -}}
{{- if not (hasKey $running $owner.name) -}}
{{- $listeners = concat $listeners $owner.listeners | uniq -}}
{{- $routes = concat $routes $owner.routes -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $serves := has "media" $listeners -}}
{{- if and $serves $federation -}}
{{- $listeners = append $listeners "federation" -}}
{{- end -}}
{{- $maximum := int $process.replicas -}}
{{- with $entry.autoscaling -}}
{{- $maximum = int .maximum -}}
{{- end -}}
{{- /* One by one: mergeOverwrite leaves out what is empty or false. */ -}}
{{- range $key, $value := dict "streams" $streams "listeners" $listeners "routes" $routes "media" $serves "maximum" $maximum "replicates" (or $serves (gt (len $streams) 0)) -}}
{{- $_ := set $process $key $value -}}
{{- end -}}
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

{{/*
Whether a type belongs to the core, without which nobody can write: main, the stream writers and the routing tier.
Argument: a process, or (dict "name" "routing"). Empty for no.
*/}}
{{- define "synapse.core" -}}
{{- if or (has .name (list "main" "routing")) .streams }}yes{{ end -}}
{{- end }}

{{/*
One type's pods go to different nodes: with `spread: hard` those of the core, or not at all. Others go where there is
room, for a node that is gone would keep them from starting again. Argument: (dict "root" $ "type" name "process" p)
*/}}
{{- define "synapse.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: {{ if and (eq .root.Values.spread "hard") (include "synapse.core" (.process | default (dict "name" .type))) }}DoNotSchedule{{ else }}ScheduleAnyway{{ end }}
  labelSelector:
    matchLabels:
      {{- include "synapse.selector" . | nindent 6 }}
{{- end }}

{{/* Where a pod of Synapse may run, and as whom; the start of each pod's `spec`. */}}
{{- define "synapse.pod-base" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.global.imagePullSecret }}
imagePullSecrets:
  - name: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 991
  runAsGroup: 991
  fsGroup: 991
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Secrets as volumes. Argument: (dict "root" $ "media" bool) */}}
{{- define "synapse.secret-volumes" -}}
- name: keys
  secret: {secretName: {{ .root.Values.secrets.synapse }}, defaultMode: 0440}
- name: database
  secret: {secretName: {{ .root.Values.secrets.database }}, defaultMode: 0440}
- name: redis
  secret: {secretName: {{ .root.Values.secrets.redis }}, defaultMode: 0440}
- name: ca
  secret: {secretName: {{ .root.Values.secrets.ca }}, defaultMode: 0440}
{{- if and .media .root.Values.media.s3.endpoint }}
- name: s3
  secret: {secretName: {{ .root.Values.media.s3.secret }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* A configuration's identity: a change rolls the pods that read it. */}}
{{- define "synapse.hash" -}}
{{ . | sha256sum | trunc 16 }}
{{- end }}

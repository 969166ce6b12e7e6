{{/* Labels that select the pods of one component: they never change while the release exists. Argument: (dict "root" $ "component" name) */}}
{{- define "valkey.selector" -}}
app.kubernetes.io/name: valkey
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object. The chart's version is left out on purpose: it would be copied into pods. */}}
{{- define "valkey.labels" -}}
{{ include "valkey.selector" . }}
app.kubernetes.io/part-of: matrix
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* Names of a component's pods and of their Services, separated by spaces. There are three of each: a quorum is two. */}}
{{- define "valkey.names" -}}
{{- range $ordinal := until 3 -}}
{{ if $ordinal }} {{ end }}{{ $.root.Release.Name }}-{{ $.component }}-{{ $ordinal }}
{{- end -}}
{{- end }}

{{/* What all pods of the chart have in common. Argument: (dict "root" $ "component" name) */}}
{{- define "valkey.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.global.imagePullSecret }}
imagePullSecrets:
  - name: {{ . }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  podAntiAffinity:
    {{- if eq .root.Values.antiAffinity "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "valkey.selector" . | nindent 12 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "valkey.selector" . | nindent 14 }}
    {{- end }}
{{- end }}

{{/* Security of every container: nothing but to run. */}}
{{- define "valkey.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where servers and sentinels find scripts, password and certificates, and what they write. */}}
{{- define "valkey.mounts" -}}
- {name: configuration, mountPath: /etc/valkey, readOnly: true}
- {name: auth, mountPath: /secrets/auth, readOnly: true}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /secrets/tls, readOnly: true}
{{- end }}
- {name: run, mountPath: /run/valkey}
{{- end }}

{{- define "valkey.volumes" -}}
- name: configuration
  configMap:
    name: {{ .Release.Name }}
- name: auth
  secret: {secretName: {{ .Values.auth.secret }}, defaultMode: 0440}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ .Values.tls.secret }}, defaultMode: 0440}
{{- end }}
# The password is in what is written there: it never reaches a disk.
- name: run
  emptyDir: {medium: Memory, sizeLimit: 4Mi}
{{- end }}

{{/* A configuration's identity: a change rolls the pods that read it. */}}
{{- define "valkey.hash" -}}
{{ . | sha256sum | trunc 16 }}
{{- end }}

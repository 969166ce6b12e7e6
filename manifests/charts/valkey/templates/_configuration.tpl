{{/* The part of a server's configuration that is the same everywhere. Password, addresses and master are added at the start. */}}
{{- define "valkey.server-conf" -}}
bind * -::*
{{- include "valkey.ports" (dict "root" . "port" 6379) }}
protected-mode no
dir /data
# Nothing is stored: what a replica receives on its way into memory is deleted again.
save ""
appendonly no
rdb-del-sync-files yes
repl-diskless-load on-empty-db
# A first replica waits this many seconds for a second one, so that both are sent to at once.
repl-diskless-sync-delay 1
maxmemory {{ .Values.maxMemory }}
maxmemory-policy {{ .Values.maxMemoryPolicy }}
tcp-keepalive 30
# Replicas that fell behind start over before they fill the master's memory.
client-output-buffer-limit replica 32mb 16mb 30
# A lone server serves: what passes through it is worth nothing later.
min-replicas-to-write 0
{{- end }}

{{- define "valkey.sentinel-conf" -}}
bind * -::*
{{- include "valkey.ports" (dict "root" . "port" 26379) }}
protected-mode no
dir /run/valkey
# By address alone: see common.sh.
sentinel resolve-hostnames no
sentinel announce-hostnames no
{{- end }}

{{- define "valkey.ports" }}
{{- if .root.Values.tls.enabled }}
port 0
tls-port {{ .port }}
tls-cert-file /secrets/tls/tls.crt
tls-key-file /secrets/tls/tls.key
tls-ca-cert-file /secrets/tls/ca.crt
# Clients show a password, no certificate.
tls-auth-clients no
tls-replication yes
{{- else }}
port {{ .port }}
{{- end }}
{{- end }}

{{/* What the scripts know of the release. */}}
{{- define "valkey.settings" -}}
MASTER_NAME={{ .Release.Name }}
NAMESPACE={{ .Release.Namespace }}
SERVERS='{{ include "valkey.names" (dict "root" . "component" "server") }}'
SENTINELS='{{ include "valkey.names" (dict "root" . "component" "sentinel") }}'
DOWN_AFTER_MILLISECONDS={{ .Values.failover.downAfterMilliseconds }}
FAILOVER_TIMEOUT_MILLISECONDS={{ .Values.failover.timeoutMilliseconds }}
CLIENT_OPTIONS='{{ if .Values.tls.enabled }}--tls --cacert /secrets/tls/ca.crt{{ end }}'
{{- end }}

{{/* All that servers and sentinels read, as the data of a ConfigMap. */}}
{{- define "valkey.data" -}}
settings.sh: |
  {{- include "valkey.settings" . | nindent 2 }}
server.conf: |
  {{- include "valkey.server-conf" . | nindent 2 }}
sentinel.conf: |
  {{- include "valkey.sentinel-conf" . | nindent 2 }}
{{- range $name := list "common.sh" "server.sh" "server-ready.sh" "server-leave.sh" "sentinel.sh" "sentinel-alive.sh" "master.sh" }}
{{ $name }}: |
  {{- $.Files.Get (print "files/" $name) | trim | nindent 2 }}
{{- end }}
{{- end }}

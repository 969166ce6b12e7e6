{{/* homeserver.yaml: what all processes share. */}}
{{- define "synapse.homeserver" -}}
{{- $root := . -}}
{{- $processes := (fromYaml (include "synapse.processes" .)).processes -}}
{{- $instances := dict -}}
{{- $writers := dict -}}
{{- $media := "" -}}
{{- range $process := $processes -}}
{{- if $process.replicates -}}
{{- range $ordinal := until (int $process.replicas) -}}
{{- $name := printf "%s-%d" (include "synapse.name" (dict "root" $root "type" $process.name)) $ordinal -}}
{{- $host := include "synapse.pod-host" (dict "root" $root "type" $process.name "ordinal" $ordinal) -}}
{{- $_ := set $instances (eq $process.name "main" | ternary "main" $name) (dict "host" $host "port" 9093) -}}
{{- range $stream := $process.streams -}}
{{- $_ := set $writers $stream (append (get $writers $stream | default list) $name) -}}
{{- end -}}
{{- if and $process.media (ne $process.name "main") -}}
{{- $media = $name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $media -}}
{{- /* Every process that serves quarantine_media writes this stream. */ -}}
{{- $_ := set $writers "quarantined_media_changes" (list "master" $media) -}}
{{- end -}}
{{- $shared := fromYaml (include "synapse.homeserver-base" .) -}}
{{- $_ := set $shared "instance_map" $instances -}}
{{- $_ := set $shared "stream_writers" $writers -}}
{{- $_ := set $shared "enable_media_repo" (not $media) -}}
{{- if $media -}}
{{- $_ := set $shared "media_instance_running_background_jobs" $media -}}
{{- end -}}
{{- mergeOverwrite $shared (deepCopy .Values.rateLimits) (deepCopy .Values.config) | toYaml -}}
{{- end }}

{{- define "synapse.homeserver-base" -}}
server_name: {{ .Values.serverName | quote }}
public_baseurl: {{ .Values.publicBaseurl | default (printf "https://%s/" .Values.host) | quote }}
log_config: /etc/synapse/log.yaml
enable_metrics: true

# Nothing of this site asks anything outside it.
report_stats: false
trusted_key_servers: []
suppress_key_server_warning: true
federation_domain_whitelist: []
allow_public_rooms_over_federation: false
url_preview_enabled: false

signing_key_path: /secrets/synapse/signing.key
macaroon_secret_key_path: /secrets/synapse/macaroon
form_secret_path: /secrets/synapse/form
registration_shared_secret_path: /secrets/synapse/registration
worker_replication_secret_path: /secrets/synapse/replication

enable_registration: false
allow_guest_access: false
presence:
  enabled: false
media_store_path: /media
max_upload_size: {{ .Values.maxUploadMiB }}M
caches:
  global_factor: {{ .Values.cacheFactor }}
redis:
  enabled: true
  host: {{ .Values.redis.host | quote }}
  port: {{ .Values.redis.port }}
  password_path: /secrets/redis/password
  {{- if .Values.redis.tls }}
  use_tls: true
  ca_file: /secrets/ca/ca.crt
  {{- end }}
{{- end }}

{{/* One type's own configuration, without the pod's name and the password. Argument: (dict "root" $ "process" p) */}}
{{- define "synapse.process" -}}
{{- $main := eq .process.name "main" -}}
{{- if not $main -}}
worker_app: {{ .process.media | ternary "synapse.app.media_repository" "synapse.app.generic_worker" }}
{{ end -}}
{{ $main | ternary "listeners" "worker_listeners" }}:
  {{- if .process.listeners }}
  - port: 8008
    type: http
    bind_addresses: ["0.0.0.0"]
    x_forwarded: true
    resources:
      - names: {{ .process.listeners | toJson }}
        compress: false
  {{- end }}
  - port: 8080
    type: http
    bind_addresses: ["0.0.0.0"]
    resources:
      - names: [health]
        compress: false
  {{- if .process.replicates }}
  - port: 9093
    type: http
    bind_addresses: ["0.0.0.0"]
    resources:
      - names: [replication]
        compress: false
  {{- end }}
  - port: 9001
    type: metrics
    bind_addresses: ["0.0.0.0"]
database:
  name: psycopg2
  txn_limit: 10000
  args:
    user: {{ .root.Values.database.user | quote }}
    dbname: {{ .root.Values.database.name | quote }}
    host: {{ .root.Values.database.host | quote }}
    port: {{ .root.Values.database.port }}
    sslmode: verify-full
    sslrootcert: /secrets/ca/ca.crt
    cp_min: {{ .process.connections.min }}
    cp_max: {{ .process.connections.max }}
    connect_timeout: 10
    # A primary that vanished is noticed in seconds instead of hours: by keepalives when idle, else by the timeout (ms).
    tcp_user_timeout: 15000
    keepalives: 1
    keepalives_idle: 10
    keepalives_interval: 10
    keepalives_count: 3
{{- end }}

{{- define "synapse.log" -}}
version: 1
formatters:
  plain:
    format: '%(asctime)s %(levelname)s %(name)s %(request)s %(message)s'
handlers:
  console:
    class: logging.StreamHandler
    formatter: plain
    stream: ext://sys.stdout
loggers:
  # Both write a line for every statement or request at INFO and below.
  synapse.storage.SQL: {level: WARNING}
  synapse.access: {level: WARNING}
root:
  level: {{ .Values.logLevel }}
  handlers: [console]
disable_existing_loggers: false
{{- end }}

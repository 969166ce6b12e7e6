{{/*
Which processes configuration names, and where they are: instance_map, stream_writers and the single duties. Whoever is
named here must be named alike in every process, so a change stops all of them before any starts (mxbundle.io/stop-together).
*/}}
{{- define "synapse.named" -}}
{{- $root := . -}}
{{- $instances := dict -}}
{{- $writers := dict -}}
{{- $names := dict -}}
{{- range $process := (fromYaml (include "synapse.processes" .)).processes -}}
{{- $own := list -}}
{{- range $ordinal := until (int $process.replicas) -}}
{{- $own = append $own (printf "%s-%d" (include "synapse.name" (dict "root" $root "type" $process.name)) $ordinal) -}}
{{- end -}}
{{- $_ := set $names $process.name $own -}}
{{- range $ordinal, $name := $own -}}
{{- if $process.replicates -}}
{{- $host := include "synapse.pod-host" (dict "root" $root "type" $process.name "ordinal" $ordinal) -}}
{{- $_ := set $instances (eq $process.name "main" | ternary "main" $name) (dict "host" $host "port" 9093) -}}
{{- end -}}
{{- range $stream := $process.streams -}}
{{- $_ := set $writers $stream (append (get $writers $stream | default list) $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $named := dict "instance_map" $instances "stream_writers" $writers -}}
{{- with get $names "media-repository" -}}
{{- /* Every process that serves quarantine_media writes this stream. */ -}}
{{- $_ := set $writers "quarantined_media_changes" (list "master" (first .)) -}}
{{- $_ := set $named "media_instance_running_background_jobs" (first .) -}}
{{- end -}}
{{- with get $names "background" -}}
{{- $_ := set $named "run_background_tasks_on" (first .) -}}
{{- $_ := set $named "notify_appservices_from_worker" (first .) -}}
{{- end -}}
{{- with get $names "user-dir" | default (get $names "background") -}}
{{- $_ := set $named "update_user_directory_from_worker" (first .) -}}
{{- end -}}
{{- with get $names "pusher" -}}
{{- $_ := set $named "pusher_instances" . -}}
{{- end -}}
{{- with get $names "federation-sender" -}}
{{- $_ := set $named "federation_sender_instances" . -}}
{{- end -}}
{{- toYaml $named -}}
{{- end }}

{{/* homeserver.yaml: what all processes share. */}}
{{- define "synapse.homeserver" -}}
{{- $named := fromYaml (include "synapse.named" .) -}}
{{- $shared := merge $named (fromYaml (include "synapse.homeserver-base" .)) -}}
{{- $_ := set $shared "enable_media_repo" (not (hasKey $named "media_instance_running_background_jobs")) -}}
{{- range $over := list (deepCopy .Values.rateLimits) (deepCopy .Values.config) -}}
{{- range $key, $value := $over -}}
{{- /* One by one: mergeOverwrite leaves out what is empty or false. */ -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $shared $key)) -}}
{{- $value = mergeOverwrite (get $shared $key) $value -}}
{{- end -}}
{{- $_ := set $shared $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $shared -}}
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
allow_public_rooms_over_federation: false
url_preview_enabled: false
{{- if not .Values.federation.enabled }}
federation_domain_whitelist: []
{{- else }}
{{- if not (has "*" .Values.federation.allow) }}
federation_domain_whitelist: {{ .Values.federation.allow | toJson }}
{{- end }}
{{- if .Values.federation.siteCA }}
federation_custom_ca_list: [/secrets/ca/ca.crt]
{{- end }}
{{- end }}
{{- with .Values.allowedAddresses }}
# Synapse calls no private address by itself; these it may.
ip_range_whitelist: {{ . | toJson }}
{{- end }}

signing_key_path: /secrets/synapse/signing.key
macaroon_secret_key_path: /secrets/synapse/macaroon
form_secret_path: /secrets/synapse/form
registration_shared_secret_path: /secrets/synapse/registration
worker_replication_secret_path: /secrets/synapse/replication

enable_registration: false
allow_guest_access: false
presence:
  enabled: {{ .Values.presence.enabled }}
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
{{- if and .process.media .root.Values.media.s3.endpoint }}
# Before an upload is acknowledged it is in the object store: what is here is a cache.
media_storage_providers:
  - module: s3_storage_provider.S3StorageProviderBackend
    store_local: true
    store_remote: true
    store_synchronous: true
    config:
      endpoint_url: {{ .root.Values.media.s3.endpoint | quote }}
      bucket: {{ .root.Values.media.s3.bucket | quote }}
      region_name: {{ .root.Values.media.s3.region | quote }}
{{- end }}
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
  {{- if not .Values.logRequests }}
  synapse.access: {level: WARNING}
  {{- end }}
root:
  level: {{ .Values.logLevel }}
  handlers: [console]
disable_existing_loggers: false
{{- end }}

{{/* The files that every process reads, as the data of a ConfigMap. */}}
{{- define "synapse.shared-files" -}}
homeserver.yaml: |
  {{- include "synapse.homeserver" . | nindent 2 }}
log.yaml: |
  {{- include "synapse.log" . | nindent 2 }}
configure.py: |
  {{- .Files.Get "files/configure.py" | nindent 2 }}
{{- end }}

{{/* The file that only processes of one type read. Argument: (dict "root" $ "process" p) */}}
{{- define "synapse.own-files" -}}
{{ .process.name }}.yaml: |
  {{- include "synapse.process" . | nindent 2 }}
{{- end }}

{{/* What HAProxy reads. */}}
{{- define "synapse.routing-files" -}}
haproxy.cfg: |
  {{- include "synapse.haproxy" . | trimSuffix "\n" | nindent 2 }}
path.map: |
  {{- include "synapse.path-map" . | trimPrefix "\n" | nindent 2 }}
429.http: |
  {{- include "synapse.too-many" . | nindent 2 }}
start.sh: |
  {{- .Files.Get "files/haproxy-start.sh" | nindent 2 }}
{{- end }}

{{/*
Names of the two ConfigMaps of a type, and of the routing tier's. A pod that starts anew while a change is under way finds what it had before: a name
stands for its content for ever, and what it stood for stays until no pod has it any more.
*/}}
{{- define "synapse.shared-name" -}}
{{ .Release.Name }}-config-{{ include "synapse.hash" (include "synapse.shared-files" .) }}
{{- end }}
{{- define "synapse.own-name" -}}
{{ include "synapse.name" (dict "root" .root "type" .process.name) }}-config-{{ include "synapse.hash" (include "synapse.own-files" .) }}
{{- end }}
{{- define "synapse.routing-name" -}}
{{ .Release.Name }}-routing-{{ include "synapse.hash" (include "synapse.routing-files" .) }}
{{- end }}

{{/*
What a ConfigMap has that is named after its content. Helm leaves it when a newer one has come; the installer removes it
when no pod is left that mounts it. Argument: (dict "root" $ "type" name)
*/}}
{{- define "synapse.kept" -}}
labels:
  {{- include "synapse.labels" . | nindent 2 }}
  mxbundle.io/named-by-content: "true"
annotations:
  helm.sh/resource-policy: keep
{{- end }}

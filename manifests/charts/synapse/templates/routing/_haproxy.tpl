{{/* Name of the backend of one type's route. Argument: (dict "type" name "balance" balance) */}}
{{- define "synapse.backend" -}}
{{ .type }}{{ if eq .balance "room" }}-by-room{{ else if eq .balance "token" }}-by-token{{ end }}
{{- end }}

{{/* The path map: one `pattern backend` a line, first match wins. Argument: (dict "root" $ "get" bool) */}}
{{- define "synapse.path-map" -}}
{{- $get := .get -}}
{{- range $process := (fromYaml (include "synapse.processes" .root)).processes -}}
{{- range $route := $process.routes -}}
{{- if eq (has "GET" ($route.methods | default list)) $get -}}
{{- range $path := $route.paths }}
{{ $path }} {{ include "synapse.backend" (dict "type" $process.name "balance" $route.balance) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "synapse.haproxy" -}}
{{- $root := . -}}
{{- $processes := (fromYaml (include "synapse.processes" .)).processes -}}
global
    log stdout format raw local0 info
    maxconn {{ .Values.routing.maxConnections }}
    nbthread {{ .Values.routing.threads }}
    hard-stop-after 25s
    # A node with few file handles gets a smaller tier, not none.
    no strict-limits

defaults
    mode http
    log global
    option dontlog-normal
    # Paths without their query: an access token may stand there.
    log-format "%ci %ST %ts %Tr/%Tt ms %b/%s %HM %HPO"
    timeout connect 3s
    timeout client {{ .Values.routing.answerSeconds }}s
    timeout server {{ .Values.routing.answerSeconds }}s
    timeout http-request 15s
    timeout http-keep-alive 60s
    timeout queue 5s
    timeout check 10s
    # A request that reached no process is tried at another one; one that was sent is never sent twice.
    retries 3
    option redispatch 1
    retry-on conn-failure
    option http-keep-alive
    default-server check port 8080 inter 2s fall 3 rise 1 on-marked-down shutdown-sessions resolvers cluster resolve-prefer ipv4 init-addr none
    # Nobody there: clients back off and come again on 429; on 503 some give up.
    errorfile 503 /usr/local/etc/haproxy/429.http

resolvers cluster
    parse-resolv-conf
    accepted_payload_size 8192
    resolve_retries 3
    timeout resolve 1s
    timeout retry 1s
    hold valid 2s
    hold nx 5s
    hold obsolete 0s
    # While DNS itself is away the last address is the best one.
    hold timeout 600s
    hold refused 600s
    hold other 600s

frontend status
    bind *:8405
    http-request use-service prometheus-exporter if { path /metrics }
    monitor-uri /health

frontend matrix
    bind *:8008
    http-request return status 204 hdr Access-Control-Allow-Origin * hdr Access-Control-Allow-Methods "GET, HEAD, POST, PUT, DELETE, OPTIONS" hdr Access-Control-Allow-Headers "X-Requested-With, Content-Type, Authorization, Date" hdr Access-Control-Max-Age 86400 if METH_OPTIONS
    http-request return status 413 content-type application/json string '{"errcode":"M_TOO_LARGE","error":"More than {{ .Values.maxUploadMiB }} MiB"}' hdr Access-Control-Allow-Origin * if { req.hdr_val(content-length) gt {{ mul .Values.maxUploadMiB 1048576 }} }
    {{- if eq .Values.adminApi "closed" }}
    http-request return status 403 content-type application/json string '{"errcode":"M_FORBIDDEN","error":"The admin API is not reachable here"}' if { path,url_dec -m beg /_synapse/admin }
    {{- end }}
    # Only what this tier saw itself; the path stays as the client wrote it.
    http-request del-header Forwarded
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto https if { ssl_fc }
    http-request set-header X-Forwarded-Proto http if !{ ssl_fc }

    http-request set-var(txn.token) req.fhdr(authorization),'regsub("^bearer +","",i)' if { req.fhdr(authorization) -m found }
    http-request set-var(txn.token) url_param(access_token) if !{ var(txn.token) -m found }
    http-request set-var(txn.token) src if !{ var(txn.token) -m found }
    http-request set-var(txn.room) path,url_dec,'regsub("^.*/(rooms|join|knock|profile)/([^/]+).*$","\2")'

    {{- if include "synapse.path-map" (dict "root" $root "get" true) }}
    http-request set-var(txn.backend) path,map_reg(/usr/local/etc/haproxy/get.map) if METH_GET
    {{- end }}
    http-request set-var(txn.backend) path,map_reg(/usr/local/etc/haproxy/path.map,main) if !{ var(txn.backend) -m found }
    {{- range $process := $processes }}
    {{- if eq $process.fallback "main" }}
    {{- range $balance := include "synapse.balances" $process | splitList " " }}
    {{- $backend := include "synapse.backend" (dict "type" $process.name "balance" $balance) }}
    http-request set-var(txn.backend) str(main) if { var(txn.backend) -m str {{ $backend }} } { nbsrv({{ $backend }}) lt 1 }
    {{- end }}
    {{- end }}
    {{- end }}
    use_backend %[var(txn.backend)]
    default_backend main
    http-response set-header X-MX-Worker "%b/%s"
{{ range $process := $processes }}
{{- if $process.listeners }}
{{- range $balance := eq $process.name "main" | ternary "robin" (include "synapse.balances" $process) | splitList " " }}
backend {{ include "synapse.backend" (dict "type" $process.name "balance" $balance) }}
    option httpchk
    http-check send meth GET uri /health
    {{- if eq $balance "robin" }}
    balance roundrobin
    {{- else }}
    # By name of the process, which both replicas of this tier number alike: a lost one moves only its own.
    balance hash var(txn.{{ $balance }})
    hash-type consistent sdbm avalanche
    {{- end }}
    {{- range $ordinal := until (int $process.maximum) }}
    server {{ include "synapse.name" (dict "root" $root "type" $process.name) }}-{{ $ordinal }} {{ include "synapse.pod-host" (dict "root" $root "type" $process.name "ordinal" $ordinal) }}:8008
    {{- end }}
{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The different balances of one process's routes, separated by spaces. */}}
{{- define "synapse.balances" -}}
{{- $balances := list -}}
{{- range $route := .routes -}}
{{- $balances = append $balances $route.balance -}}
{{- end -}}
{{- $balances | uniq | join " " -}}
{{- end }}

{{/* What a client gets when nobody can answer. The body ends with the block's own line feed, hence + 1. */}}
{{- define "synapse.too-many" -}}
{{- $body := dict "errcode" "M_LIMIT_EXCEEDED" "error" "No process can answer this now" "retry_after_ms" 2000 | toJson -}}
HTTP/1.1 429 Too Many Requests
Content-Type: application/json
Access-Control-Allow-Origin: *
Cache-Control: no-cache
Retry-After: 2
Content-Length: {{ add (len $body) 1 }}

{{ $body }}
{{- end }}

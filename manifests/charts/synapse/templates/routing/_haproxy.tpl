{{/* haproxy.cfg. Who answers what: _routes.tpl; what is said without asking Synapse: _edge.tpl. */}}
{{- define "synapse.haproxy" -}}
{{- $root := . -}}
{{- $processes := (fromYaml (include "synapse.processes" .)).processes -}}
{{- $routes := (fromYaml (include "synapse.routes" .)).routes -}}
{{- $edge := eq .Values.edge.mode "haproxy" -}}
{{- $tls := "ssl crt /tls/tls.crt alpn h2,http/1.1" -}}
{{- $public := include "synapse.host-only" (urlParse (include "synapse.public-baseurl" .)).host -}}
{{- $server := include "synapse.host-only" .Values.serverName -}}
{{- $unknown := include "synapse.return" (dict "status" 421 "body" "{\"errcode\":\"M_UNRECOGNIZED\",\"error\":\"This server does not answer for that host name\"}") -}}
global
    log stdout format raw local0 info
    maxconn {{ .Values.routing.maxConnections }}
    nbthread {{ .Values.routing.threads }}
    # Whoever is asked when new certificates are read gets an answer from the old worker: longer than any takes.
    hard-stop-after {{ add .Values.routing.answerSeconds 10 }}s
    # A node with few file handles gets a smaller tier, not none.
    no strict-limits
    # What the running worker knows of addresses and health, and the next one takes over: start.sh.
    stats socket /var/lib/haproxy/control mode 600 level operator
    server-state-file /var/lib/haproxy/servers
    {{- if $edge }}
    # The key lies beside the certificate, as tls.key.
    ssl-load-extra-del-ext
    ssl-load-extra-files key
    # Mozilla's "intermediate", without DHE.
    ssl-default-bind-options prefer-client-ciphers ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-curves X25519:prime256v1:secp384r1
    ssl-default-bind-ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
    {{- end }}

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
    timeout queue {{ .Values.routing.queueSeconds }}s
    timeout check 10s
    # A request that reached no process is tried at another one; one that was sent is never sent twice.
    retries 3
    option redispatch 1
    retry-on conn-failure
    option http-keep-alive
    # An idle connection is ended by an answer, not while its next request is on the way.
    option idle-close-on-response
    load-server-state-from-file global
    default-server check port 8080 inter 2s fall 3 rise 1 on-marked-down shutdown-sessions resolvers cluster resolve-prefer ipv4 init-addr last,none
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
{{- if $edge }}

frontend redirect
    bind *:8080
    http-request set-var(txn.host) req.hdr(host),host_only,lower
    {{ $unknown }} if !{ var(txn.host) -m str {{ uniq (list $public $server) | join " " }} }
    http-request redirect location https://%[var(txn.host)]{{ regexFind ":[0-9]+$" (urlParse (include "synapse.public-baseurl" .)).host }}%[pathq] code 308
{{- end }}

frontend matrix
    # In the cluster.
    bind *:8008 name inside
    {{- if $edge }}
    bind *:8443 name clients {{ $tls }}
    {{- if include "synapse.federation-port" . }}
    bind *:8448 name servers {{ $tls }}
    {{- end }}
    {{- with .Values.edge.hstsSeconds }}
    http-after-response set-header Strict-Transport-Security "max-age={{ int . }}" if { ssl_fc }
    {{- end }}
    {{- end }}
    http-request return status 204 hdr Access-Control-Allow-Origin * hdr Access-Control-Allow-Methods "GET, HEAD, POST, PUT, DELETE, OPTIONS" hdr Access-Control-Allow-Headers "X-Requested-With, Content-Type, Authorization, Date" hdr Access-Control-Max-Age 86400 if METH_OPTIONS
    {{- if $edge }}
    http-request set-var(txn.host) req.hdr(host),host_only,lower
    {{ $unknown }} if { ssl_fc } !{ var(txn.host) -m str {{ uniq (list $public $server) | join " " }} }
    {{- end }}
    {{ include "synapse.return" (dict "status" 200 "body" (include "synapse.well-known-client" .)) }} if { path /.well-known/matrix/client }
    {{ include "synapse.return" (dict "status" 200 "body" (include "synapse.well-known-server" .)) }} if { path /.well-known/matrix/server }
    {{- $nothing := include "synapse.return" (dict "status" 404 "body" "{\"errcode\":\"M_UNRECOGNIZED\",\"error\":\"There is nothing here\"}") }}
    {{- if and $edge (ne $public $server) }}
    # The server's own name is for discovery, and for other servers.
    {{ $nothing }} if { so_name clients } { var(txn.host) -m str {{ $server }} }
    {{- end }}
    {{- if and $edge (include "synapse.federation-port" .) }}
    {{ $nothing }} if { so_name servers } !{ path_beg /_matrix/federation/ /_matrix/key/ /_matrix/media/ }
    {{- end }}
    http-request return status 413 content-type application/json string '{"errcode":"M_TOO_LARGE","error":"More than {{ .Values.maxUploadMiB }} MiB"}' hdr Access-Control-Allow-Origin * if { req.hdr_val(content-length) gt {{ mul .Values.maxUploadMiB 1048576 }} }
    {{- if eq .Values.adminApi "closed" }}
    http-request return status 403 content-type application/json string '{"errcode":"M_FORBIDDEN","error":"The admin API is not reachable here"}' if { path,url_dec -m beg /_synapse/admin }
    {{- end }}

    # Where a client is: what this tier saw itself, or what a proxy says that is trusted. Synapse takes the first
    # address, which a client can make up: only the one that the nearest proxy saw is passed on.
    http-request set-var(txn.client) src
    {{- with .Values.edge.trustedProxies }}
    {{- $trusted := join " " . }}
    {{- range $hop := list 1 2 3 }}
    http-request set-var(txn.client) req.hdr_ip(x-forwarded-for,-{{ $hop }}) if { var(txn.client) -m ip {{ $trusted }} } { req.hdr_ip(x-forwarded-for,-{{ $hop }}) -m found }
    {{- end }}
    {{- end }}
    http-request del-header Forwarded
    http-request set-header X-Forwarded-For %[var(txn.client)]
    http-request set-header X-Forwarded-Proto https if { ssl_fc }
    http-request set-header X-Forwarded-Proto http if !{ ssl_fc }{{ with .Values.edge.trustedProxies }} !{ src {{ join " " . }} }{{ end }}

    # The path stays as the client wrote it.
    http-request set-var(txn.token) req.fhdr(authorization),'regsub("^bearer +","",i)' if { req.fhdr(authorization) -m found }
    http-request set-var(txn.token) url_param(access_token) if !{ var(txn.token) -m found }
    http-request set-var(txn.token) var(txn.client) if !{ var(txn.token) -m found }
    http-request set-var(txn.room) path,url_dec,'regsub("^.*/(rooms|join|knock|profile)/([^/]+).*$","\2")'

    {{- range $routes }}
    {{- if or .methods .without .with }}
    http-request set-var(txn.backend) str({{ .backend }}) if !{ var(txn.backend) -m found } {{ include "synapse.route-condition" . }}
    {{- end }}
    {{- end }}
    http-request set-var(txn.backend) path,map_reg(/usr/local/etc/haproxy/path.map,main) if !{ var(txn.backend) -m found }
    {{- /* First from type to type, then to main. */}}
    {{- range $late := list false true }}
    {{- range $process := $processes }}
    {{- range $backend := (fromYaml (include "synapse.backends" (dict "routes" $routes "type" $process.name))).backends }}
    {{- $fallback := "" }}
    {{- if and $late (has $process.fallback (list "main" "reads")) }}
    {{- $fallback = "main" }}
    {{- else if and (not $late) (not (has $process.fallback (list "main" "reads" "none"))) }}
    {{- $fallback = "main" }}
    {{- range $other := $routes }}
    {{- if eq $other.backend (include "synapse.backend" (dict "type" $process.fallback "balance" $backend.balance)) }}
    {{- $fallback = $other.backend }}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- if and $fallback (ne $process.name "main") }}
    http-request set-var(txn.backend) str({{ $fallback }}) if { var(txn.backend) -m str {{ $backend.name }} } { nbsrv({{ $backend.name }}) lt 1 }{{ if eq $process.fallback "reads" }} METH_GET{{ end }}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- end }}
    use_backend %[var(txn.backend)]
    default_backend main
    {{- if .Values.routing.sayWho }}
    http-response set-header X-MX-Worker "%b/%s"
    {{- end }}
{{ range $process := $processes }}
{{- range $backend := (fromYaml (include "synapse.backends" (dict "routes" $routes "type" $process.name))).backends }}
backend {{ $backend.name }}
    option httpchk
    http-check send meth GET uri /health
    {{- if eq $backend.balance "robin" }}
    balance roundrobin
    {{- else }}
    # By name of the process, which both replicas of this tier number alike: a lost one moves only its own.
    balance hash {{ get (dict "token" "var(txn.token)" "room" "var(txn.room)" "source" "var(txn.client)" "uri" "pathq") $backend.balance }}
    hash-type consistent sdbm avalanche
    {{- end }}
    {{- range $ordinal := until (int $process.maximum) }}
    server {{ include "synapse.name" (dict "root" $root "type" $process.name) }}-{{ $ordinal }} {{ include "synapse.pod-host" (dict "root" $root "type" $process.name "ordinal" $ordinal) }}:8008 maxconn {{ $process.concurrent | default (eq $process.name "main" | ternary 2000 500) }}
    {{- end }}
{{ end }}
{{- end }}
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

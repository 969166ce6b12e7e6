{{/*
Which server is the master is decided from five kinds of answers: a server says `role:master`, and at least two sentinels
name its address. Each sentinel has one answer at a time, so two servers can never both have two of three.
*/}}
{{- define "valkey.haproxy" -}}
{{- $servers := include "valkey.names" (dict "root" . "component" "server") | splitList " " -}}
{{- $sentinels := include "valkey.names" (dict "root" . "component" "sentinel") | splitList " " -}}
{{- $pairs := list (list 0 1) (list 0 2) (list 1 2) -}}
{{- $tls := ternary " check-ssl verify required ca-file /secrets/tls/ca.crt" "" .Values.tls.enabled -}}
global
    log stdout format raw local0 notice
    maxconn {{ .Values.proxy.maxConnections }}
    # One thread: checks and decisions come one after the other.
    nbthread 1
    # Clients never leave by themselves; the other replica takes them.
    hard-stop-after 2s
    # A node with few file handles gets a smaller proxy, not none.
    no strict-limits
    setenv HOLD_SECONDS {{ .Values.proxy.holdSeconds }}
    setenv MASTER_BACKENDS "{{ range $number, $name := $servers }}{{ if $number }} {{ end }}to-{{ $name }}{{ end }}"
    lua-load /usr/local/etc/haproxy/hold.lua

defaults
    mode tcp
    log global
    timeout connect 2s
    # A subscriber may hear nothing for long. Who is gone is found by keepalives, within a minute.
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
    timeout client-fin 10s
    timeout server-fin 10s
    timeout check 2s
    option clitcpka
    clitcpka-idle 30s
    clitcpka-intvl 10s
    clitcpka-cnt 3
    option srvtcpka
    srvtcpka-idle 30s
    srvtcpka-intvl 10s
    srvtcpka-cnt 3

frontend status
    mode http
    bind *:8405
    timeout client 10s
    timeout http-request 10s
    http-request use-service prometheus-exporter if { path /metrics }
    {{- range $name := $servers }}
    http-request return status 200 content-type text/plain string "{{ $name }}" if { path /master } { nbsrv(to-{{ $name }}) ge 1 }
    {{- end }}
    http-request return status 503 if { path /master }
    monitor-uri /health

frontend valkey
    bind *:6379
    tcp-request inspect-delay {{ add .Values.proxy.holdSeconds 1 }}s
    tcp-request content lua.await_master
    {{- range $name := $servers }}
    use_backend to-{{ $name }} if { nbsrv(to-{{ $name }}) ge 1 }
    {{- end }}

# Whether a server is the master, for the checks below.
frontend verdict
    mode http
    bind 127.0.0.1:8406
    timeout client 5s
    timeout http-request 5s
    {{- range $number, $sentinel := $sentinels }}
    acl {{ $sentinel }}-answers srv_is_up(asked-{{ $sentinel }}/{{ $sentinel }})
    {{- range $n, $server := $servers }}
    acl {{ $sentinel }}-names-{{ $n }} var(proc.named_{{ $number }}) -m str "${SERVER_{{ $n }}}"
    {{- end }}
    {{- end }}
    {{- range $n, $server := $servers }}
    acl is-master-{{ $n }} srv_is_up(roles/{{ $server }})
    {{- range $pair := $pairs }}
    {{- $one := index $sentinels (first $pair) }}
    {{- $two := index $sentinels (last $pair) }}
    http-request return status 200 if { path /{{ $server }} } is-master-{{ $n }} {{ $one }}-answers {{ $one }}-names-{{ $n }} {{ $two }}-answers {{ $two }}-names-{{ $n }}
    {{- end }}
    {{- end }}
    http-request return status 503
{{- range $n, $server := $servers }}

backend to-{{ $server }}
    option httpchk
    http-check send meth GET uri /{{ $server }}
    # A server that is not the master any more loses its clients: their subscriptions there hear nothing.
    server {{ $server }} "${SERVER_{{ $n }}}:6379" check addr 127.0.0.1 port 8406 inter 300ms fall 1 rise 1 on-marked-down shutdown-sessions
{{- end }}

backend roles
    option tcp-check
    tcp-check send-binary "${AUTH}"
    tcp-check expect string +OK
    tcp-check send "ROLE\r\n"
    # With this much received it is final: a replica fails at once instead of after the time for a check.
    tcp-check expect min-recv 18 string "\r\nmaster\r\n"
    default-server check inter 1s fastinter 300ms fall 3 rise 1{{ $tls }}
    {{- range $n, $server := $servers }}
    server {{ $server }} "${SERVER_{{ $n }}}:6379"
    {{- end }}
{{- range $number, $sentinel := $sentinels }}

backend asked-{{ $sentinel }}
    option tcp-check
    tcp-check send-binary "${AUTH}"
    tcp-check expect string +OK
    tcp-check send "SENTINEL GET-MASTER-ADDR-BY-NAME {{ $.Release.Name }}\r\n"
    tcp-check expect rstring '^\*2\r\n\$[0-9]+\r\n[0-9a-f.:]+\r\n\$[0-9]+\r\n[0-9]+\r\n'
    # Its third word is the address.
    tcp-check set-var(proc.named_{{ $number }}) res.payload(0,0),word(3,"\r\n")
    server {{ $sentinel }} "${SENTINEL_{{ $number }}}:26379" check inter 1s fastinter 300ms fall 3 rise 1{{ $tls }}
{{- end }}
{{- end }}

{{- define "valkey.proxy-data" -}}
haproxy.cfg: |
  {{- include "valkey.haproxy" . | nindent 2 }}
settings.sh: |
  {{- include "valkey.settings" . | nindent 2 }}
{{- range $name := list "proxy.sh" "hold.lua" }}
{{ $name }}: |
  {{- $.Files.Get (print "files/" $name) | trim | nindent 2 }}
{{- end }}
{{- end }}

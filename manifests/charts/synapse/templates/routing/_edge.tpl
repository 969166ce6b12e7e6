{{/* The address of the clients without its last slash. */}}
{{- define "synapse.public-baseurl" -}}
{{ .Values.publicBaseurl | default (printf "https://%s/" .Values.host) | trimSuffix "/" }}
{{- end }}

{{/* Host name of a `host`, `host:port` or `[address]:port`. */}}
{{- define "synapse.host-only" -}}
{{ regexReplaceAll ":[0-9]+$" . "" | lower }}
{{- end }}

{{/* Whether other servers come by a port of their own: `true` or empty. */}}
{{- define "synapse.federation-port" -}}
{{ if and .Values.federation.enabled (ne (toString .Values.federation.port) "delegated") }}true{{ end }}
{{- end }}

{{/* What /.well-known/matrix/server says. */}}
{{- define "synapse.well-known-server" -}}
{{- $authority := (urlParse (include "synapse.public-baseurl" .)).host -}}
{{- $host := include "synapse.host-only" $authority -}}
{{- $port := regexFind ":[0-9]+$" $authority | trimPrefix ":" | default "443" -}}
{{- if include "synapse.federation-port" . -}}
{{- $port = .Values.federation.port -}}
{{- end -}}
{{- dict "m.server" (printf "%s:%v" $host $port) | toJson -}}
{{- end }}

{{/* What /.well-known/matrix/client says. */}}
{{- define "synapse.well-known-client" -}}
{{- $server := dict "m.homeserver" (dict "base_url" (include "synapse.public-baseurl" .)) -}}
{{- merge $server (deepCopy .Values.edge.wellKnownClient) | toJson -}}
{{- end }}

{{/* One JSON answer of the tier itself. Argument: (dict "status" code "body" JSON text) */}}
{{- define "synapse.return" -}}
http-request return status {{ .status }} content-type application/json string '{{ .body | replace "'" "\\u0027" }}' hdr Access-Control-Allow-Origin *
{{- end }}

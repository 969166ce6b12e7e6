{{/* Name of the backend of one type's route. Argument: (dict "type" name "balance" balance) */}}
{{- define "synapse.backend" -}}
{{ .type }}{{ if and (ne .type "main") (ne .balance "robin") }}-by-{{ .balance }}{{ end }}
{{- end }}

{{/*
Who answers which request, in order, as YAML `routes: […]`: backend, type, balance, paths, and the conditions.
Every type's patterns are in it, whether the type runs or not: what a missing type would have done must not fall to the
next broader pattern. Its work is done by the writer that has its stream, or the type that it falls back to, or main.
*/}}
{{- define "synapse.routes" -}}
{{- $running := dict -}}
{{- $writers := dict -}}
{{- range $process := (fromYaml (include "synapse.processes" .)).processes -}}
{{- $_ := set $running $process.name $process -}}
{{- range $process.streams -}}
{{- $_ := set $writers . $process.name -}}
{{- end -}}
{{- end -}}
{{- $conditional := list -}}
{{- $plain := list -}}
{{- range $type := (fromYaml (include "synapse.types" .)).types -}}
{{- $target := "main" -}}
{{- if hasKey $running $type.name -}}
{{- $target = $type.name -}}
{{- else if hasKey $running $type.fallback -}}
{{- $target = $type.fallback -}}
{{- else -}}
{{- range $type.streams -}}
{{- $target = get $writers . | default $target -}}
{{- end -}}
{{- end -}}
{{- range $route := $type.routes -}}
{{- $entry := merge (dict "type" $target "backend" (include "synapse.backend" (dict "type" $target "balance" $route.balance))) $route -}}
{{- if or $route.methods $route.without $route.with -}}
{{- $conditional = append $conditional $entry -}}
{{- else -}}
{{- $plain = append $plain $entry -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "routes" (concat $conditional $plain) | toYaml -}}
{{- end }}

{{/* The backends of one type, as YAML `backends: [{name, balance}]`. Argument: (dict "routes" routes "type" name) */}}
{{- define "synapse.backends" -}}
{{- $found := list -}}
{{- $names := list -}}
{{- range .routes -}}
{{- if and (eq .type $.type) (not (has .backend $names)) -}}
{{- $names = append $names .backend -}}
{{- $found = append $found (dict "name" .backend "balance" .balance) -}}
{{- end -}}
{{- end -}}
{{- if eq .type "main" -}}
{{- $found = list (dict "name" "main" "balance" "robin") -}}
{{- end -}}
{{- dict "backends" $found | toYaml -}}
{{- end }}

{{/* The path map: one `pattern backend` a line, first match wins. */}}
{{- define "synapse.path-map" -}}
{{- range (fromYaml (include "synapse.routes" .)).routes -}}
{{- $route := . -}}
{{- if not (or .methods .without .with) -}}
{{- range .paths }}
{{ . }} {{ $route.backend }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* When a conditional route holds, as ACLs of HAProxy. Argument: the route */}}
{{- define "synapse.route-condition" -}}
{ path -m reg{{ range .paths }} '{{ . }}'{{ end }} }
{{- if .methods }} { method{{ range .methods }} {{ . }}{{ end }} }{{ end }}
{{- with .without }} !{ url_param({{ . }}) -m found }{{ end }}
{{- range $name, $value := .with }} { url_param({{ $name }}) -m str {{ $value }} }{{ end }}
{{- end }}

{{/*
The NetworkPolicies of the edges in files/edges.yaml, one object for each end of an edge that is in this chart's hands. The
same file stands in every chart of the stack.

Argument: (dict "root" $ "places" PLACES). PLACES: name → place. A place has `peers` (the list in a rule's `from` or `to`;
without it anybody is meant) and, where it is pods of this chart, `pods` (their selector; policies are written for them) and
`namespaces` (default: the release's). `ports` of a place are those of an edge to it that names none. An edge of which a
place is missing is left out.
*/}}
{{- define "edges.policies" -}}
{{- $root := .root -}}
{{- $places := .places -}}
{{- range $edge := (fromYaml ($root.Files.Get "files/edges.yaml")).edges -}}
{{- if and (hasKey $places $edge.from) (hasKey $places $edge.to) -}}
{{- $from := get $places $edge.from -}}
{{- $to := get $places $edge.to -}}
{{- $ports := list -}}
{{- range $port := $edge.ports | default $to.ports -}}
{{- range $protocol := $edge.protocols | default (list "TCP") -}}
{{- $ports = append $ports (dict "protocol" $protocol "port" (int $port)) -}}
{{- end -}}
{{- end -}}
{{- $ends := list -}}
{{- if eq $edge.from $edge.to -}}
{{- $ends = list "both" -}}
{{- else -}}
{{- $ends = concat (ternary (list "out") (list) (hasKey $from "pods")) (ternary (list "in") (list) (hasKey $to "pods")) -}}
{{- end -}}
{{- range $end := $ends -}}
{{- $own := eq $end "in" | ternary $to $from -}}
{{- range $namespace := $own.namespaces | default (list $root.Release.Namespace) }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ hasPrefix (printf "%s-" $root.Release.Name) $edge.edge | ternary "" (printf "%s-" $root.Release.Name) }}{{ $edge.edge }}-{{ $end }}
  namespace: {{ $namespace }}
  labels:
    app.kubernetes.io/name: {{ $root.Chart.Name }}
    app.kubernetes.io/instance: {{ $root.Release.Name }}
    app.kubernetes.io/component: network-policy
    app.kubernetes.io/part-of: matrix
    app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  annotations:
    mxbundle.io/edge: {{ $edge.edge }}
    mxbundle.io/from: {{ $edge.from }}
    mxbundle.io/to: {{ $edge.to }}
    mxbundle.io/for: {{ $edge.for | quote }}
spec:
  policyTypes: {{ get (dict "in" (list "Ingress") "out" (list "Egress") "both" (list "Ingress" "Egress")) $end | toJson }}
  podSelector: {{ toJson $own.pods }}
  {{- if ne $end "out" }}
  ingress:
    - ports: {{ toJson $ports }}
      {{- with $from.peers }}
      from: {{ toJson . }}
      {{- end }}
  {{- end }}
  {{- if ne $end "in" }}
  egress:
    - ports: {{ toJson $ports }}
      {{- with $to.peers }}
      to: {{ toJson . }}
      {{- end }}
  {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Addresses as peers, `any` of them where the list is empty. JSON `{"peers": […]}`. Argument: (dict "addresses" list) */}}
{{- define "edges.addresses" -}}
{{- $peers := list -}}
{{- range .addresses | default (list "0.0.0.0/0" "::/0") -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" .)) -}}
{{- end -}}
{{- dict "peers" $peers | toJson -}}
{{- end }}

{{/*
Pods of another namespace as peers; without namespace those of the release's, without both any address. JSON
`{"peers": […]}`. Argument: (dict "namespace" name "labels" dict)
*/}}
{{- define "edges.pods" -}}
{{- $peer := dict -}}
{{- with .namespace -}}
{{- $_ := set $peer "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .)) -}}
{{- end -}}
{{- with .labels -}}
{{- $_ := set $peer "podSelector" (dict "matchLabels" .) -}}
{{- end -}}
{{- if $peer -}}
{{- dict "peers" (list $peer) | toJson -}}
{{- else -}}
{{- include "edges.addresses" (dict "addresses" list) -}}
{{- end -}}
{{- end }}

{{/*
What a URL names as a place: its address where it has one, else `addresses`, else any; and its port. JSON.
Argument: (dict "url" text "addresses" list)
*/}}
{{- define "edges.url" -}}
{{- $url := urlParse .url -}}
{{- $host := regexReplaceAll ":[0-9]+$" $url.host "" -}}
{{- $port := trimPrefix ":" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{- $addresses := .addresses -}}
{{- if and (not $addresses) (regexMatch "^[0-9]+(\\.[0-9]+){3}$" $host) -}}
{{- $addresses = list (printf "%s/32" $host) -}}
{{- end -}}
{{- merge (dict "ports" (list (int $port))) (include "edges.addresses" (dict "addresses" $addresses) | fromJson) | toJson -}}
{{- end }}

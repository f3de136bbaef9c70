{{/*
Writes YAML as CEL: (dict "type" "Object.spec.volumes" "value" V "pad" 2). A string "cel:X" is the expression X;
{"cel:if": X, "then": A, "else": B} chooses.
*/}}
{{- define "leasehold-injector.cel" -}}
{{- $pad := .pad | int -}}
{{- $line := printf "\n%s" (repeat (add $pad 2 | int) " ") -}}
{{- $end := printf "\n%s" (repeat $pad " ") -}}
{{- if kindIs "map" .value -}}
  {{- if hasKey .value "cel:if" -}}
    {{- $branch := dict "type" .type "pad" (add $pad 2) -}}
    ({{ index .value "cel:if" }}{{ $line }}? {{ include "leasehold-injector.cel" (merge (dict "value" .value.then) $branch) -}}
    {{ $line }}: {{ include "leasehold-injector.cel" (merge (dict "value" .value.else) $branch) }})
  {{- else if has (splitList "." .type | last) (list "requests" "limits") -}}
    {{- /* A map of strings, without the empty ones. */ -}}
    {
    {{- range $index, $key := keys .value | sortAlpha -}}
      {{ if $index }}, {{ end }}{{ $key | quote }}: {{ include "leasehold-injector.cel" (dict "type" "string" "value" (index $.value $key) "pad" $pad) }}
    {{- end -}}
    }.transformMap(name, quantity, quantity != '', quantity)
  {{- else -}}
    {{ .type }}{
    {{- range $index, $key := keys .value | sortAlpha -}}
      {{ if $index }},{{ end }}{{ $line }}{{ $key }}: {{ include "leasehold-injector.cel" (dict "type" (printf "%s.%s" $.type $key) "value" (index $.value $key) "pad" (add $pad 2)) }}
    {{- end }}{{ $end }}}
  {{- end -}}
{{- else if kindIs "slice" .value -}}
  [
  {{- range $index, $item := .value -}}
    {{ if $index }},{{ end }}{{ $line }}{{ include "leasehold-injector.cel" (dict "type" $.type "value" $item "pad" (add $pad 2)) }}
  {{- end }}{{ $end }}]
{{- else if kindIs "string" .value -}}
  {{- if hasPrefix "cel:" .value }}{{ trimPrefix "cel:" .value }}{{ else }}{{ .value | quote }}{{ end -}}
{{- else if kindIs "float64" .value -}}
  {{ .value | int64 }}
{{- else -}}
  {{ .value }}
{{- end -}}
{{- end }}

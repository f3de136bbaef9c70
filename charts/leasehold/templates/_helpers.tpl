{{- define "demo.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "demo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "demo.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "demo.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Quoted, as every name here: a release may be named 1234. */}}
{{- define "demo.selectorLabels" -}}
app.kubernetes.io/name: {{ include "demo.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "demo.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- merge (include "demo.selectorLabels" . | fromYaml) $labels .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "demo.podLabels" -}}
{{- merge (include "demo.selectorLabels" . | fromYaml) .Values.podLabels .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "demo.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "demo.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "demo.lease" -}}
{{- .Values.lease.name | default (include "demo.fullname" .) -}}
{{- end -}}

{{/* The image of the app; without one the demo, which is the sidecar's own. */}}
{{- define "demo.appImage" -}}
{{- if .Values.app.image.repository -}}
{{- include "leasehold.image" (dict "image" .Values.app.image "tag" "latest") -}}
{{- else -}}
{{- include "leasehold.image" (dict "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* global.imagePullSecrets and imagePullSecrets, names or maps. */}}
{{- define "demo.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range concat (.Values.global.imagePullSecrets | default list) (.Values.imagePullSecrets | default list) -}}
{{- if kindIs "map" . }}{{ $secrets = append $secrets . }}{{ else }}{{ $secrets = append $secrets (dict "name" .) }}{{ end -}}
{{- end -}}
{{- with $secrets -}}
imagePullSecrets:
  {{- uniq . | toYaml | nindent 2 }}
{{- end -}}
{{- end -}}

{{/*
What the library reads: this chart's own values, which have the same names. Where no shutdown grace is given, the one
that fits the pod's, and that leaves time for the last promise to run out.
*/}}
{{- define "demo.values" -}}
{{- $values := deepCopy .Values -}}
{{- $grace := mul .Values.terminationGracePeriodSeconds 1000 -}}
{{- $ttl := include "leasehold.milliseconds" (dict "path" "lease.answerTTL" "time" (.Values.lease.answerTTL | default "1s")) | int64 -}}
{{- if lt $grace (add $ttl 2000) -}}
{{- fail (printf "terminationGracePeriodSeconds: %d s must be at least 2 s longer than lease.answerTTL (%d ms): the pod would be killed before promises are waited out and the lease is released" (div $grace 1000) $ttl) -}}
{{- end -}}
{{- if and (not .Values.shutdownGrace) (ne $grace 30000) -}}
{{- $_ := set $values "shutdownGrace" (printf "%dms" (max (add $ttl 2000) (sub $grace 5000))) -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{/* Of the pods of `helm test`: no Service selects them, and no policy for the workload's pods. */}}
{{- define "demo.testLabels" -}}
{{- merge (dict "app.kubernetes.io/name" (printf "%s-test" (include "demo.name" . | trunc 58 | trimSuffix "-"))) (include "demo.labels" . | fromYaml) | toYaml -}}
{{- end -}}

{{/*
What the templates share. Each is called with (dict "ctx" $ "lease" "web") and may be given more:
  values               read this map instead of .Values.leasehold
  serviceAccountName   whose rights leasehold.rbac grants
  selectorLabels       YAML of the labels by which leasehold.podMonitor finds the pods
  kind                 of the workload, for leasehold.initContainer with members: Deployment unless given
*/}}

{{/* The version that these templates were made for: the image's tag unless another is given. */}}
{{- define "leasehold.version" -}}0.1.0{{- end -}}

{{/* The values, with the defaults of this library under them, as YAML. */}}
{{- define "leasehold.values" -}}
{{- $own := .values | default .ctx.Values.leasehold | default dict -}}
{{- $defaults := index .ctx.Values "leasehold-lib" | default dict -}}
{{- mergeOverwrite (deepCopy $defaults) (deepCopy $own) | toYaml -}}
{{- end -}}

{{/* registry/repository:tag@digest: (dict "image" MAP "tag" DEFAULT). A tag beside a digest is for people. */}}
{{- define "leasehold.image" -}}
{{- with .image -}}
{{- if .registry }}{{ .registry }}/{{ end }}{{ .repository -}}
{{- if .digest -}}
{{- if .tag }}:{{ .tag }}{{ end }}@{{ .digest -}}
{{- else -}}
:{{ .tag | default $.tag -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.labels" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- $labels := dict
  "app.kubernetes.io/name" (.ctx.Values.nameOverride | default .ctx.Chart.Name | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/instance" .ctx.Release.Name
  "app.kubernetes.io/managed-by" .ctx.Release.Service
  "helm.sh/chart" (printf "%s-%s" .ctx.Chart.Name .ctx.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- merge $labels ($v.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{/* The lease duration of the timing, or the one that was given. */}}
{{- define "leasehold.duration" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- $lease := $v.lease | default dict -}}
{{- $timings := dict "standard" "15s" "calm" "60s" "fast" "5s" -}}
{{- $lease.duration | default (get $timings ($lease.timing | default "standard")) -}}
{{- end -}}

{{/* The group that the pods join: the Lease's name unless one is given. */}}
{{- define "leasehold.group" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- $v.members.group | default .lease -}}
{{- end -}}

{{/* The label that tells of which template of its workload a pod is. */}}
{{- define "leasehold.revisionLabel" -}}
{{- $kind := .kind | default "Deployment" -}}
{{- $labels := dict "Deployment" "pod-template-hash" "Rollout" "rollouts-pod-template-hash" "StatefulSet" "controller-revision-hash" "DaemonSet" "controller-revision-hash" -}}
{{- if not (hasKey $labels $kind) -}}
{{- fail (printf "leasehold.initContainer: the kind %q is none of Deployment, StatefulSet, DaemonSet and Rollout" $kind) -}}
{{- end -}}
{{- get $labels $kind -}}
{{- end -}}

{{/* Milliseconds of a time such as 15s: (dict "path" PATH "time" TIME). */}}
{{- define "leasehold.milliseconds" -}}
{{- $time := .time | toString -}}
{{- if not (regexMatch "^[0-9]{1,9}(ms|s|m|h)$" $time) -}}
{{- fail (printf "%s: %q is no duration: write a whole number and ms, s, m or h, such as 15s" .path $time) -}}
{{- end -}}
{{- $number := regexFind "^[0-9]+" $time | trimAll "\n" -}}
{{- $unit := trimPrefix $number $time -}}
{{- /* Without leading zeros, by which a number would be octal. */ -}}
{{- $number = regexReplaceAll "^0+([0-9])" $number "${1}" | int64 -}}
{{- mul $number (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit) -}}
{{- end -}}
